/** The engine's peer: talks to the other peers over the wires that the page hands in, and runs jobs over all of them. */
import {
  createPeer,
  type Model,
  type ModelSource,
  type Peer,
  PeerError,
  type PeerEvent,
  type PeerGeneration,
  type Wire,
  wiresFrom,
} from "../../src/index.ts";
import type { PeerMessage, PeerRequest, PeerSelf } from "../peers/peer-protocol.ts";
import type { EngineError, EngineEvent, ModelFacts, RunJob } from "../protocol.ts";
import { PeerBatch } from "./peer-batch.ts";
import { composePrompt } from "./prompt.ts";

/** What the engine lends its peer. */
export interface PeerHostOptions {
  post(event: EngineEvent): void;
  /** A device in working order; a new one after the last was lost. */
  requestDevice(): Promise<GPUDevice>;
  sourceOf(self: PeerSelf): { source?: ModelSource; token?: string };
  describeError(error: unknown): EngineError;
  describeModel(model: Pick<Model, "name" | "config" | "hasChatTemplate">): ModelFacts;
}

/** At most one peer at a time. */
export class PeerHost {
  private peer: Peer | undefined;
  /** Wires of peers who were found before this one knew its own id. */
  private early = new Map<string, readonly Wire[]>();
  private readonly batch: PeerBatch;
  private readonly send: (message: PeerMessage) => void;

  constructor(private readonly options: PeerHostOptions) {
    this.send = options.post;
    this.batch = new PeerBatch(this.send);
  }

  get isOpen(): boolean {
    return this.peer !== undefined;
  }

  /** Does what the page asks. */
  handle(request: PeerRequest): void {
    try {
      switch (request.type) {
        case "peerStart":
          this.start(request.self);
          break;
        case "peerWires":
          this.connect(request.peerId, wiresFrom(request.source));
          break;
        case "peerGone":
          this.early.delete(request.peerId);
          this.peer?.disconnect(request.peerId, request.reason);
          break;
        case "peerAdmit":
          this.peer?.admit(request.peerId);
          break;
        case "peerAdmitAll":
          if (this.peer) this.peer.admitAll = request.isOn;
          break;
        case "peerRemove":
          this.peer?.remove(request.peerId, request.reason);
          break;
        case "peerStop":
          this.peer?.stop();
          break;
        case "peerLeave":
          this.leave(request.reason);
          break;
      }
    } catch (error) {
      this.failed(error, this.peer === undefined);
    }
  }

  /** Reads the text and answers with all peers. The page hears the same events as of a run alone. */
  async run(id: number, job: RunJob, signal: AbortSignal): Promise<void> {
    const { post } = this.options;
    const { peer } = this;
    if (!peer) throw new PeerError("PeerHost: expected a ring of peers, and it was left");
    await peer.ready(1, signal);
    const model = peer.model!;
    post({ type: "model", id, model: this.options.describeModel(model) });
    // A model over bytes (the default one) has a token for each letter.
    const isByteModel = model.tokenize("ring", { addBos: false }).length === 4 && !model.hasChatTemplate;
    const { prompt, question, expected } = composePrompt(model, isByteModel, job.text, job.question);
    this.batch.isOwn = true;
    try {
      const { sampling, peers, ring } = job;
      const generation = peer.generate(prompt, { ...sampling, ...peers, layout: ring.layout, signal });
      post({ type: "prompt", id, question, expected });
      await this.iterate(id, generation, signal);
    } finally {
      this.batch.flush();
      this.batch.isOwn = false;
    }
  }

  private async iterate(id: number, generation: PeerGeneration, signal: AbortSignal): Promise<void> {
    let newTokens = 0;
    let firstMs = 0;
    for await (const piece of generation) {
      signal.throwIfAborted();
      const nowMs = performance.now();
      if (newTokens++ === 0) {
        firstMs = nowMs;
        this.batch.flush();
      }
      const tokensPerSecond = newTokens > 1 ? ((newTokens - 1) * 1000) / (nowMs - firstMs) : 0;
      this.options.post({ type: "piece", id, text: piece.text, newTokens, tokensPerSecond });
    }
    signal.throwIfAborted();
    this.batch.flush();
    this.options.post({ type: "done", id, statistics: generation.statistics });
  }

  private start(self: PeerSelf): void {
    const { early } = this;
    this.leave("a new ring is entered");
    const { source, token } = this.options.sourceOf(self);
    this.peer = createPeer({
      id: self.id,
      name: self.name,
      isLeader: self.isLeader,
      memoryBytes: self.memoryBytes,
      admit: self.admitAll ? "all" : "ask",
      source,
      token,
      requestDevice: this.options.requestDevice,
      onEvent: (event) => this.tell(event),
      onReconnect: (peerId) => this.send({ type: "peerReconnect", peerId }),
      onBan: (peerId) => this.send({ type: "peerBan", peerId }),
    });
    this.send({ type: "peerOpen", peers: [...this.peer.peers] });
    for (const [peerId, wires] of early) this.peer.connect(peerId, wires);
  }

  private connect(peerId: string, wires: readonly Wire[]): void {
    if (this.peer) this.peer.connect(peerId, wires);
    else this.early.set(peerId, wires);
  }

  private leave(reason: string): void {
    const { peer } = this;
    this.peer = undefined;
    this.early = new Map();
    peer?.leave(reason).catch((error) => this.failed(error, false));
  }

  private failed(error: unknown, isOver: boolean): void {
    this.send({ type: "peerFailed", isOver, error: this.options.describeError(error) });
  }

  private tell(event: PeerEvent): void {
    if (!this.peer && event.type !== "peers") return;
    if (event.type === "epoch") this.batch.reset(event.ranks.length);
    if (this.batch.take(event)) return;
    // Of a run that this page began its pieces come as those of a job.
    if (this.batch.isOwn && (event.type === "piece" || event.type === "run")) return;
    this.batch.flush();
    this.send({ type: "peerEvent", event });
  }
}
