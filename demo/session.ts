/** One run at a time: sends jobs to the engine, and every event it answers with to the views it belongs to. */

import type { PeerEvent } from "../src/index.ts";
import { Automation, type DemoResult, type DemoState } from "./automation.ts";
import { byId } from "./dom.ts";
import { EngineClient } from "./engine-client.ts";
import { explainError } from "./explain-error.ts";
import { formatCount, formatFigure, formatLength, formatSeconds } from "./format.ts";
import type { PeerMessage, PeerProgress } from "./peers/peer-protocol.ts";
import type { EngineError, EngineEvent, MemoryFacts, NeedleCell, NeedleJob, RingChoice, RunJob } from "./protocol.ts";
import { AnswerView } from "./views/answer-view.ts";
import { ErrorView } from "./views/error-view.ts";
import { FiguresView } from "./views/figures-view.ts";
import { MemoryView } from "./views/memory-view.ts";
import { NeedleGrid } from "./views/needle-grid.ts";
import { type RingSeat, RingView } from "./views/ring-view.ts";
import { StatusView } from "./views/status-view.ts";
import { TimelineView } from "./views/timeline-view.ts";

/** Events that belong to a job. */
type JobEvent = Extract<EngineEvent, { id: number }>;

const isBusyState = (state: DemoState) => ["loading", "prefill", "answering", "needle"].includes(state);

/** The page's one session. `again` starts what failed once more, from the inputs as they stand then. */
export class Session {
  readonly client = new EngineClient((event) => this.receive(event));
  readonly automation = new Automation();
  private readonly answer = new AnswerView();
  private readonly status = new StatusView();
  private readonly ring = new RingView();
  private readonly timeline = new TimelineView();
  private readonly memory = new MemoryView();
  private readonly figures = new FiguresView();
  private readonly needleGrid = new NeedleGrid();
  private readonly errors = new ErrorView(() => this.kind !== "watch" && this.again(this.kind));
  private state: DemoState = "idle";
  /** "watch": a run that another peer leads. */
  private kind: "run" | "needle" | "watch" = "run";
  /** Ranks are peers: who sits where is the ring's business, not the form's. */
  private hasPeers = false;
  private needle = "";
  /** Ranks of the ring in view. */
  private shownRanks = 0;
  private cells: NeedleCell[] = [];
  /** Of a run that is watched. */
  private newTokens = 0;
  private firstPieceMs = 0;
  private leads = true;
  private startMs = 0;
  private promptMs = 0;
  private facts: Pick<DemoResult, "expected" | "modelName" | "adapterName"> = {};

  constructor(
    private readonly again: (kind: "run" | "needle") => void,
    private readonly onPeer: (message: PeerMessage) => void,
  ) {}

  get isBusy(): boolean {
    return isBusyState(this.state);
  }

  /** Looks for a GPU, so that a missing one is told before anyone presses a button. */
  hello(): void {
    const error = missingWebGpu();
    if (error) this.deviceFailed(error);
    else this.client.hello();
  }

  /** What the next run will do, shown until the first one. */
  invite(text: string): void {
    this.answer.invite(text);
  }

  /** The ring as the next run would have it; what runs, or has run on as many ranks, stays in view. */
  preview(ring: RingChoice): void {
    if (!this.isBusy && !this.hasPeers && ring.worldSize !== this.shownRanks) this.resetRing(ring);
  }

  private resetRing(ring: RingChoice): void {
    if (!this.hasPeers) {
      this.ring.reset(ring.worldSize);
      this.resetRanks(ring.worldSize);
      return;
    }
    this.ring.finish("");
    this.ring.setRead(0);
    this.resetRanks(this.shownRanks);
  }

  private resetRanks(worldSize: number): void {
    this.shownRanks = worldSize;
    this.timeline.reset(worldSize);
    this.memory.reset(worldSize);
  }

  /** The ring as its peers form it, and what each holds; undefined: alone again, on ranks of this device. */
  showPeers(seats: readonly RingSeat[] | undefined, memory?: MemoryFacts): void {
    this.hasPeers = seats !== undefined;
    if (!seats) return;
    const ranks = Math.max(1, seats.filter(({ rank }) => rank !== undefined).length);
    if (ranks !== this.shownRanks) this.resetRanks(ranks);
    this.ring.seat(seats);
    if (memory) this.memory.show(memory, "K/V that the peers hold, each in its own GPU’s memory.");
  }

  /** What a run of peers tells of its ring, whoever leads it. */
  peerProgress(progress: PeerProgress): void {
    if (progress.prefill && !this.isBusy && !progress.isOwn) this.beginWatch();
    if (this.isBusy) this.progress(progress);
  }

  /** A run that another one leads, or led until it went. Its own runs the leader hears of as jobs. */
  peerEvent(event: PeerEvent): void {
    if (event.type === "recovering") {
      if (this.isBusy) this.ring.interrupt("Recovering", "lost tokens again");
      return;
    }
    if (this.isBusy && this.kind !== "watch") return;
    if (event.type === "run") {
      if (!this.isBusy) this.beginWatch();
      this.answer.watch(event.promptTail.split("\n").slice(-2).join("\n").trim());
    } else if (event.type === "piece") {
      if (!this.isBusy) this.beginWatch();
      this.newTokens++;
      this.piece({ text: event.piece.text, newTokens: this.newTokens, tokensPerSecond: this.watchedSpeed() });
    } else if (event.type === "end" && this.isBusy) this.endWatch(event.stopReason === "failed", event.message);
  }

  /** Ends the run in view without a word to the engine: the ring goes on with it, or has ended it. */
  abandon(): void {
    if (!this.isBusy) return;
    if (this.kind === "watch") this.endWatch(false, "You have left the ring.");
    else this.client.abandon();
  }

  /** Whether this page may stop a run that it did not begin: it leads now. */
  set mayStopWatched(value: boolean) {
    this.leads = value;
    this.setState(this.state);
  }

  private beginWatch(): void {
    this.automation.begin();
    this.kind = "watch";
    this.facts = { adapterName: this.facts.adapterName };
    this.newTokens = 0;
    this.startMs = this.promptMs = performance.now();
    this.answer.reset();
    this.answer.watch("");
    this.figures.reset();
    this.errors.hide();
    this.setState("prefill");
  }

  private watchedSpeed(): number {
    if (this.newTokens === 1) this.firstPieceMs = performance.now();
    const seconds = (performance.now() - this.firstPieceMs) / 1000;
    return this.newTokens > 1 && seconds > 0 ? (this.newTokens - 1) / seconds : 0;
  }

  private endWatch(isFailed: boolean, message: string): void {
    this.answer.finish();
    const seconds = formatSeconds((performance.now() - this.startMs) / 1000);
    this.status.say(
      isFailed ? message : "Done.",
      isFailed ? 0 : 1,
      isFailed ? "" : `${formatCount(this.newTokens)} new tokens, ${seconds}`,
    );
    this.end({ state: isFailed ? "failed" : "done" });
  }

  run(job: RunJob): void {
    if (!this.begin("run", job.ring)) return;
    this.answer.reset();
    this.figures.reset();
    this.client.run(job);
  }

  runNeedle(job: NeedleJob): void {
    if (!this.begin("needle", job.ring)) return;
    this.cells = [];
    this.needleGrid.begin(job.lengths, job.depths);
    this.client.needle(job);
  }

  stop(): void {
    if (this.kind === "watch") {
      if (this.leads) this.client.peer({ type: "peerStop" });
    } else this.client.stop();
  }

  /** An error that ends nothing: a file could not be read, and what is there stays as it is. */
  tell(error: EngineError): void {
    this.errors.show(explainError(error));
  }

  /** An error of the page itself that keeps a run from starting. */
  fail(error: EngineError): void {
    const explanation = explainError(error);
    this.errors.show(explanation);
    if (this.isBusy) return;
    this.status.say(explanation.title, 0);
    this.end({ state: "failed", error: { ...explanation, ...error } });
  }

  private begin(kind: "run" | "needle", ring: RingChoice): boolean {
    if (this.isBusy) return false;
    this.automation.begin();
    this.kind = kind;
    this.facts = { adapterName: this.facts.adapterName };
    const error = missingWebGpu();
    if (error) {
      this.fail(error);
      return false;
    }
    this.resetRing(ring);
    this.startMs = performance.now();
    this.setState("loading");
    // After the focus has left its button.
    this.errors.hide();
    this.status.say("Starting the engine", undefined);
    this.showStage(kind);
    return true;
  }

  /** On a phone the form fills the screen: what the button started is brought into view. */
  private showStage(kind: "run" | "needle"): void {
    const heading = byId(kind === "run" ? "answer-heading" : "needle-heading");
    const { top } = heading.getBoundingClientRect();
    if (top < 0 || top > innerHeight * 0.8) heading.scrollIntoView({ block: "start" });
  }

  private setState(state: DemoState): void {
    this.state = state;
    this.automation.setState(state);
    const isBusy = isBusyState(state);
    const run = byId<HTMLButtonElement>("run");
    const needleRun = byId<HTMLButtonElement>("needle-run");
    const stop = byId<HTMLButtonElement>("stop");
    const hadFocus = document.activeElement?.matches("#run, #needle-run, #stop, #error-action");
    stop.disabled = !isBusy || (this.kind === "watch" && !this.leads);
    run.disabled = needleRun.disabled = isBusy;
    // A button that is disabled or goes drops the focus: it moves on to the one that has become useful.
    const useful = isBusy ? stop : this.kind === "needle" ? needleRun : run;
    if (hadFocus) useful.focus({ preventScroll: true });
  }

  private receive(event: EngineEvent): void {
    if (event.type === "device") this.deviceReady(event);
    else if (event.type === "deviceFailed") this.deviceFailed(event.error);
    else if ("id" in event) this.receiveOfJob(event);
    else this.onPeer(event);
  }

  private receiveOfJob(event: JobEvent): void {
    switch (event.type) {
      case "load":
        this.status.load(event.progress);
        return;
      case "model":
        this.facts.modelName = event.model.name;
        if (this.kind === "run") this.status.say("Preparing the text", undefined);
        return;
      case "prompt":
        this.facts.expected = event.expected;
        this.promptMs = performance.now();
        this.setState("prefill");
        this.answer.ask(event.question, event.expected);
        return;
      case "progress":
        this.progress(event);
        return;
      case "piece":
        this.piece(event);
        return;
      case "cellStart":
        if (this.state !== "needle") this.setState("needle");
        this.needle = `${formatLength(event.length)} tokens, depth ${event.depth}%`;
        this.status.say(`Needle test: ${this.needle}`, 0);
        this.needleGrid.start(event.length, event.depth);
        return;
      case "cell":
        this.cells.push(event.cell);
        this.needleGrid.set(event.cell);
        return;
      case "done":
        this.done(event);
        return;
      case "needleDone":
        this.status.say(
          `Needle test done: ${this.cells.filter((cell) => cell.isFound).length} of ${this.cells.length} found.`,
          1,
        );
        this.needleGrid.end(true);
        this.end({ state: "done" });
        return;
      case "stopped":
        this.status.say("Stopped.", 0);
        this.answer.stop();
        if (this.kind === "needle") this.needleGrid.end(false);
        this.end({ state: "stopped" });
        return;
      case "failed":
        this.jobFailed(event.error);
        return;
    }
  }

  private progress({ prefill, turns, memory }: PeerProgress | Extract<JobEvent, { type: "progress" }>): void {
    if (prefill) {
      this.automation.progress(prefill);
      this.ring.setRead(prefill.totalTokens > 0 ? prefill.doneTokens / prefill.totalTokens : 0);
      if (this.kind !== "needle") this.figures.set("prompt", formatCount(prefill.totalTokens));
      if (prefill.tokensPerSecond > 0) this.figures.set("prefill", formatFigure(prefill.tokensPerSecond));
      if (this.state === "prefill") this.status.prefill(prefill);
      else if (this.state === "needle") this.status.prefill(prefill, `Needle test: ${this.needle}`);
    }
    this.timeline.add(turns);
    if (this.state !== "answering") this.ring.play(turns);
    if (!memory) return;
    this.memory.show(memory);
    this.figures.setMemory(memory);
  }

  private piece(event: Omit<Extract<JobEvent, { type: "piece" }>, "type" | "id">): void {
    if (this.state !== "answering") {
      this.setState("answering");
      this.figures.set("firstToken", formatSeconds((performance.now() - this.promptMs) / 1000));
      this.ring.setRead(1);
      this.ring.decode();
    }
    this.answer.add(event.text);
    this.automation.piece(event.text);
    this.status.answering(event.newTokens, event.tokensPerSecond);
    if (event.tokensPerSecond > 0) this.figures.set("decode", formatFigure(event.tokensPerSecond));
  }

  private done({ statistics }: Extract<JobEvent, { type: "done" }>): void {
    this.answer.finish();
    this.figures.finish(statistics);
    const seconds = formatSeconds((performance.now() - this.startMs) / 1000);
    const why =
      statistics.stopReason === "maxNewTokens" ? "the most new tokens are reached" : "the model ended its answer";
    this.status.say("Done.", 1, `${formatCount(statistics.newTokens)} new tokens, ${seconds} in all; ${why}`);
    this.end({ state: "done", statistics, found: this.answer.isFound() });
  }

  private jobFailed(error: EngineError): void {
    // A lost device leaves nothing behind that could be used: worker, device and model start anew.
    // A peer gets itself another device, and its connections must not be lost with the worker.
    if (error.name === "DeviceLostError" && !this.hasPeers) this.client.discard();
    this.answer.stop();
    if (this.kind === "needle") this.needleGrid.end(false);
    const explanation = explainError(error);
    this.status.say(explanation.title, 0);
    this.end({ state: "failed", error: { ...explanation, ...error } });
    this.errors.show(explanation);
  }

  private end(result: Omit<DemoResult, "answer">): void {
    this.setState(result.state);
    this.ring.finish(result.state === "done" ? "at rest" : `run ${result.state}`);
    const cells = this.kind === "needle" ? { cells: this.cells } : {};
    this.automation.end({ answer: this.kind === "needle" ? "" : this.answer.text, ...this.facts, ...cells, ...result });
  }

  private deviceReady({ device }: Extract<EngineEvent, { type: "device" }>): void {
    this.facts.adapterName = device.adapterName;
    const badge = byId("adapter");
    badge.dataset.kind = device.isCpu ? "slow" : "ok";
    badge.textContent = device.isCpu ? "No GPU: computing on the processor, slowly" : `GPU: ${device.adapterName}`;
    badge.title = device.adapterName;
  }

  private deviceFailed(error: EngineError): void {
    const badge = byId("adapter");
    badge.dataset.kind = "none";
    badge.textContent = "No GPU";
    // While a job runs it hears of the same failure itself.
    if (!this.isBusy) this.errors.show(explainError(error));
  }
}

/** Why there can be no WebGPU here, before any worker is asked. */
function missingWebGpu(): EngineError | undefined {
  if (!isSecureContext) return { name: "InsecurePageError", message: location.origin };
  if (navigator.gpu) return undefined;
  return { name: "UnsupportedDeviceError", message: "this browser has no WebGPU" };
}
