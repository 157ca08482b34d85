/** The engine behind the page: one GPUDevice, at most one model, one job at a time. Runs in a dedicated worker. */
import {
  DeviceLostError,
  describeAdapter,
  type GenerateOptions,
  loadModel,
  type Model,
  type ModelSource,
  requestRingwiseDevice,
} from "../../src/index.ts";
import type { PeerRequest } from "../peers/peer-protocol.ts";
import type { EngineError, EngineEvent, ModelChoice, ModelFacts, NeedleJob, RingChoice, RunJob } from "../protocol.ts";
import { PeerHost } from "./peer-host.ts";
import { ProgressBatch } from "./progress-batch.ts";
import { composePrompt } from "./prompt.ts";

/** Thrown into a job when the person presses Stop. */
class StopSignal extends Error {
  override name = "StopSignal";
}

/** Tokens generated beyond the needle's own length before a cell counts as missed. */
const NEEDLE_SLACK_TOKENS = 24;

const keyOf = (model: ModelChoice): string => {
  if (model.kind === "default") return `url:${model.url}`;
  return model.kind === "hub" ? `hub:${model.id}` : `local:${model.key}`;
};

const sourceOf = (model: ModelChoice): ModelSource => {
  if (model.kind === "default") return new URL(model.url);
  if (model.kind === "hub") return model.id;
  return model.kind === "folder" ? model.handle : model.files;
};

const describeError = (error: unknown): EngineError =>
  error instanceof Error
    ? { name: error.name, message: error.message }
    : { name: "Error", message: String((error as { message?: unknown })?.message ?? error) };

function describeModel(model: Pick<Model, "name" | "config" | "hasChatTemplate">): ModelFacts {
  const number = (key: string) => Number(model.config[key] ?? 0);
  return {
    name: model.name,
    layerCount: number("num_hidden_layers"),
    heads: number("num_attention_heads"),
    kvHeads: number("num_key_value_heads") || number("num_attention_heads"),
    hiddenSize: number("hidden_size"),
    isChat: model.hasChatTemplate,
  };
}

/** Answers the page's requests with events. After a lost device the page throws the whole worker away and starts anew. */
export class Engine {
  /** The device in use, once there is one. */
  device: GPUDevice | undefined;
  private requested: Promise<GPUDevice> | undefined;
  private loaded: { key: string; model: Model } | undefined;
  private job: { id: number; controller: AbortController; ended: Promise<void> } | undefined;

  private readonly peers: PeerHost;

  constructor(private readonly post: (event: EngineEvent) => void) {
    this.peers = new PeerHost({
      post,
      requestDevice: () => this.acquireDevice(),
      sourceOf: ({ model }) =>
        model ? { source: sourceOf(model), token: model.kind === "hub" ? model.token : undefined } : {},
      describeError,
      describeModel,
    });
  }

  /** Gets the device, so that the page can say at once which adapter it has, or why there is none. */
  async hello(): Promise<void> {
    try {
      const device = await this.acquireDevice();
      const { name, isCpu, hasF16 } = describeAdapter(device);
      const maxBufferBytes = device.limits.maxBufferSize;
      this.post({ type: "device", device: { adapterName: name, isCpu, hasF16, maxBufferBytes } });
    } catch (error) {
      this.post({ type: "deviceFailed", error: describeError(error) });
    }
  }

  /** What the page says of peers. */
  peer(request: PeerRequest): void {
    if (request.type === "peerStart") {
      // The ring loads its own: two models never share the memory.
      this.loaded?.model.destroy();
      this.loaded = undefined;
    }
    this.peers.handle(request);
  }

  /** Reads the text, answers the question. */
  run(id: number, job: RunJob): Promise<void> {
    if (job.peers) return this.start(id, (signal) => this.peers.run(id, job, signal), true);
    return this.start(id, async (signal) => {
      const model = await this.acquireModel(id, job.model, job.ring, signal);
      const { prompt, question, expected } = composePrompt(model, job.model.kind === "default", job.text, job.question);
      await this.generate(id, model, prompt, job.ring, { ...job.sampling, signal }, question, expected);
    });
  }

  /** Asks for the needle at every depth of every length, shortest first. */
  needle(id: number, job: NeedleJob): Promise<void> {
    return this.start(id, async (signal) => {
      const model = await this.acquireModel(id, job.model, job.ring, signal);
      for (const length of job.lengths)
        for (const depth of job.depths) {
          this.post({ type: "cellStart", id, length, depth });
          await this.needleCell(id, model, job, length, depth, signal);
        }
      this.post({ type: "needleDone", id });
    });
  }

  /** Ends the job at once: the page hears "stopped" now, and the GPU stops at its next step. */
  stop(id: number): void {
    if (this.job?.id === id) this.job.controller.abort(new StopSignal("stopped"));
  }

  /** @param keepsDevice The work gets itself another device when it loses this one. */
  private async start(id: number, work: (signal: AbortSignal) => Promise<void>, keepsDevice = false): Promise<void> {
    const before = this.job?.ended;
    const controller = new AbortController();
    const { signal } = controller;
    let markEnded = () => {};
    this.job = { id, controller, ended: new Promise((resolve) => (markEnded = resolve)) };
    const stopped = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
    const running = (async () => {
      await before;
      signal.throwIfAborted();
      if (keepsDevice) return work(signal);
      const device = await this.acquireDevice();
      const lost = device.lost.then((info) => {
        throw new DeviceLostError(`engine: the GPU device was lost (${info.reason}): ${info.message}`);
      });
      await Promise.race([work(signal), lost]);
    })();
    running.catch(() => {}).then(markEnded);
    try {
      await Promise.race([running, stopped]);
    } catch (error) {
      const isStop = error instanceof StopSignal;
      this.post(isStop ? { type: "stopped", id } : { type: "failed", id, error: describeError(error) });
      // Whatever of the job is still under way ends too, and is not heard any more.
      controller.abort(error);
    }
  }

  private async acquireDevice(): Promise<GPUDevice> {
    // The promise is kept, so that two who ask at once get one device; a refusal is not, so that asking again can help.
    const requested = (this.requested ??= requestRingwiseDevice({ powerPreference: "high-performance" }));
    const forget = () => {
      if (this.requested === requested) this.requested = undefined;
    };
    try {
      const device = await requested;
      if (this.device !== device) device.lost.then(forget);
      this.device = device;
      return device;
    } catch (error) {
      forget();
      throw error;
    }
  }

  private async acquireModel(id: number, choice: ModelChoice, ring: RingChoice, signal: AbortSignal): Promise<Model> {
    const key = keyOf(choice);
    if (this.loaded && this.loaded.key !== key) {
      // Before the next one is read: two models never share the memory.
      this.loaded.model.destroy();
      this.loaded = undefined;
    }
    if (this.loaded) {
      const { model } = this.loaded;
      const isSame = (Object.keys(ring) as (keyof RingChoice)[]).every((key) => model.ring[key] === ring[key]);
      if (!isSame) await model.setRing(ring);
    } else {
      const model = await loadModel(sourceOf(choice), {
        device: this.device!,
        ring,
        signal,
        token: choice.kind === "hub" ? choice.token : undefined,
        onProgress: (progress) => !signal.aborted && this.post({ type: "load", id, progress }),
      });
      this.loaded = { key, model };
    }
    signal.throwIfAborted();
    this.post({ type: "model", id, model: describeModel(this.loaded.model) });
    return this.loaded.model;
  }

  private async generate(
    id: number,
    model: Model,
    prompt: ReturnType<typeof composePrompt>["prompt"],
    ring: RingChoice,
    options: GenerateOptions & { signal: AbortSignal },
    question: string,
    expected: string | undefined,
  ): Promise<void> {
    const { signal } = options;
    const batch = new ProgressBatch(id, this.device!, ring.worldSize, this.post);
    const generation = model.generate(prompt, {
      ...options,
      onProgress: (progress) => !signal.aborted && batch.add(progress),
    });
    this.post({ type: "prompt", id, question, expected });
    let newTokens = 0;
    let firstMs = 0;
    try {
      for await (const piece of generation) {
        signal.throwIfAborted();
        const nowMs = performance.now();
        if (newTokens++ === 0) {
          firstMs = nowMs;
          // Now, while the run still holds its memory.
          batch.flush();
        }
        const tokensPerSecond = newTokens > 1 ? ((newTokens - 1) * 1000) / (nowMs - firstMs) : 0;
        this.post({ type: "piece", id, text: piece.text, newTokens, tokensPerSecond });
      }
      signal.throwIfAborted();
      this.post({ type: "done", id, statistics: generation.statistics });
    } finally {
      batch.cancel();
    }
  }

  private async needleCell(
    id: number,
    model: Model,
    job: NeedleJob,
    length: number,
    depth: number,
    signal: AbortSignal,
  ): Promise<void> {
    const text = { kind: "generated", length, depth, seed: job.seed } as const;
    const { prompt, expected } = composePrompt(model, job.model.kind === "default", text, "");
    const batch = new ProgressBatch(id, this.device!, job.ring.worldSize, this.post);
    const startMs = performance.now();
    let answer = "";
    const generation = model.generate(prompt, {
      maxNewTokens: model.tokenize(expected!, { addBos: false }).length + NEEDLE_SLACK_TOKENS,
      signal,
      onProgress: (progress) => !signal.aborted && batch.add(progress),
    });
    try {
      for await (const piece of generation) {
        signal.throwIfAborted();
        answer += piece.text;
        if (answer.includes(expected!)) break;
      }
    } finally {
      batch.cancel();
    }
    const { promptTokens } = generation.statistics;
    const seconds = (performance.now() - startMs) / 1000;
    const isFound = answer.includes(expected!);
    signal.throwIfAborted();
    this.post({
      type: "cell",
      id,
      cell: { length, depth, isFound, expected: expected!, answer, promptTokens, seconds },
    });
  }
}
