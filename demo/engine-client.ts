/** The page's end of the engine: starts the worker, numbers the jobs, and throws a broken worker away. */
import type { PeerRequest } from "./peers/peer-protocol.ts";
import type { EngineError, EngineEvent, EngineRequest, NeedleJob, RunJob } from "./protocol.ts";

/** Starts jobs in the worker and hands its events to one listener. Events of jobs that are over are dropped. */
export class EngineClient {
  private worker: Worker | undefined;
  private jobId = 0;
  private isJobOpen = false;

  constructor(private readonly listener: (event: EngineEvent) => void) {}

  /** Starts the worker where there is none, and has it look for a GPU. */
  hello(): void {
    this.send({ type: "hello" });
  }

  run(job: RunJob): void {
    this.open((id) => ({ type: "run", id, job }));
  }

  needle(job: NeedleJob): void {
    this.open((id) => ({ type: "needle", id, job }));
  }

  /** Peers are no job: they come and go while jobs do. Channels and ports move along in this very task. */
  peer(request: PeerRequest, transfer: Transferable[] = []): void {
    this.send(request, transfer);
  }

  /** Stops the job at once; the page hears "stopped" from here, whatever the worker is busy with. */
  stop(): void {
    if (!this.isJobOpen) return;
    this.send({ type: "stop", id: this.jobId });
    this.receive({ type: "stopped", id: this.jobId });
  }

  /** Ends the job for the page alone; what the engine makes of it is not heard any more. */
  abandon(): void {
    if (this.isJobOpen) this.receive({ type: "stopped", id: this.jobId });
  }

  /** Throws the worker (its device and its model with it) away; the next job starts a fresh one. */
  discard(): void {
    this.worker?.terminate();
    this.worker = undefined;
    this.isJobOpen = false;
  }

  private open(request: (id: number) => EngineRequest): void {
    this.jobId++;
    this.isJobOpen = true;
    this.send(request(this.jobId));
  }

  private send(request: EngineRequest, transfer: Transferable[] = []): void {
    try {
      this.worker ??= this.start();
      this.worker.postMessage(request, transfer);
    } catch (error) {
      this.fail({ name: "EngineStartError", message: (error as Error).message });
    }
  }

  private start(): Worker {
    const worker = new Worker(new URL("./engine/engine.worker.ts", import.meta.url), {
      type: "module",
      name: "engine",
    });
    worker.onmessage = (message: MessageEvent<EngineEvent>) => this.worker === worker && this.receive(message.data);
    worker.onerror = (event) => {
      if (this.worker !== worker) return;
      this.fail({ name: "EngineStartError", message: event.message || "its script could not be loaded" });
      this.discard();
    };
    return worker;
  }

  private fail(error: EngineError): void {
    this.receive(this.isJobOpen ? { type: "failed", id: this.jobId, error } : { type: "deviceFailed", error });
  }

  private receive(event: EngineEvent): void {
    if ("id" in event) {
      if (event.id !== this.jobId || !this.isJobOpen) return;
      if (event.type === "done" || event.type === "needleDone" || event.type === "stopped" || event.type === "failed")
        this.isJobOpen = false;
    }
    this.listener(event);
  }
}
