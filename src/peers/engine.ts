/** What computes: a device, the model on it, and a rank's run of the model. Made again, all three, when the device is lost. */
import { PeerError } from "../errors.ts";
import type { PromptContext } from "../model/generate.ts";
import type { RankRun } from "../model/rank-types.ts";
import type { LoadProgress, Model } from "../model/types.ts";
import type { PeerModelDescription } from "./types.ts";
import type { WeightsExchange } from "./weights-exchange.ts";

/** A model that was loaded for a ring, and what tells it from others. */
export interface PeerModel {
  model: Model;
  fingerprint: string;
}

/** How device, model and run are made: the real ones, or a test's. */
export interface EngineParts {
  requestDevice(): Promise<GPUDevice>;
  /** @param wanted The leader's model; absent on the leader itself, which brings its own. */
  loadModel(
    wanted: PeerModelDescription | undefined,
    options: {
      device: GPUDevice;
      signal: AbortSignal;
      onProgress: (progress: LoadProgress) => void;
      /** Gives the model to others, and gets it from them. */
      weights: WeightsExchange;
    },
  ): Promise<PeerModel & { description: PeerModelDescription }>;
  openRank(model: Model): Promise<RankRun>;
  promptsOf(model: Model): PromptContext;
  adapterName(device: GPUDevice): string;
}

/** Everything that stands on one device. */
export interface OpenEngine {
  device: GPUDevice;
  model: Model;
  description: PeerModelDescription;
  rank: RankRun;
  prompts: PromptContext;
}

/** What the engine tells. */
export interface EngineEvents {
  onProgress(progress: LoadProgress): void;
  onReady(open: OpenEngine): void;
  /** The device is gone; it is being made again. */
  onLost(message: string): void;
  /** Nothing more will come of it. */
  onFailed(error: unknown): void;
}

/** See the module's comment. */
export class Engine {
  /** What stands now; undefined while it is (again) being made. */
  open: OpenEngine | undefined;
  adapterName = "";
  private coming: Promise<OpenEngine> | undefined;
  private readonly closed = new AbortController();

  constructor(
    private readonly parts: EngineParts,
    private readonly events: EngineEvents,
    private readonly weights: WeightsExchange,
  ) {}

  get isStarted(): boolean {
    return this.coming !== undefined;
  }

  /** Begins to load; once. */
  start(wanted: PeerModelDescription | undefined): void {
    this.coming ??= this.make(wanted);
    this.coming.catch(() => {});
  }

  /** The rank's run, as soon as it stands. @throws {PeerError} where nothing was started, or it came to nothing. */
  async rank(): Promise<RankRun> {
    if (!this.coming) throw new PeerError("Engine.rank: expected a model to be loaded, got none yet");
    return (await this.coming).rank;
  }

  close(reason: string): void {
    if (this.closed.signal.aborted) return;
    this.closed.abort(new PeerError(`peer: expected one that takes part, got one that has left (${reason})`));
    this.open?.rank.release();
    this.open?.model.destroy();
    this.open = undefined;
  }

  private async make(wanted: PeerModelDescription | undefined): Promise<OpenEngine> {
    const { signal } = this.closed;
    const { parts, events } = this;
    try {
      const device = await parts.requestDevice();
      signal.throwIfAborted();
      this.adapterName = parts.adapterName(device);
      const { model, description } = await parts.loadModel(wanted, {
        device,
        signal,
        weights: this.weights,
        onProgress: (progress) => events.onProgress(progress),
      });
      const destroyIfClosed = () => {
        if (!signal.aborted) return;
        model.destroy();
        throw signal.reason;
      };
      destroyIfClosed();
      const rank = await parts.openRank(model).catch((error) => {
        model.destroy();
        throw error;
      });
      destroyIfClosed();
      const open = { device, model, description, rank, prompts: parts.promptsOf(model) };
      this.open = open;
      void device.lost.then((info) => this.lost(open, info?.message || "no further message"));
      events.onReady(open);
      return open;
    } catch (error) {
      if (!signal.aborted) events.onFailed(error);
      throw error;
    }
  }

  private lost(open: OpenEngine, message: string): void {
    if (this.open !== open || this.closed.signal.aborted) return;
    this.open = undefined;
    open.rank.release();
    open.model.destroy();
    this.coming = this.make(open.description);
    this.coming.catch(() => {});
    this.events.onLost(message);
  }
}
