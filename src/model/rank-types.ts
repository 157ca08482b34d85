/**
 * One rank's share of a model run on a ring of peers. Every peer has the weights and the ids; a rank computes the layers for
 * its own tokens and keeps their K/V. Which tokens those are is decided elsewhere (peers/).
 */
import type { MemoryUse } from "../gpu/ledger.ts";
import type { PartialAttention, RankStep, RingPlace, Rotation, WireDtype } from "../ring/rank-types.ts";
import type { TokenRange } from "../ring/types.ts";

/** One operation of prefill, the same on every rank: whose tokens are whose, and who is where. */
export interface ForwardPlan extends Pick<RingPlace, "rank" | "worldSize" | "next" | "previous" | "epoch" | "op"> {
  /** Tokens that each rank computes now: a chunk of the prompt, or tokens that were lost with a peer. */
  tokens: readonly (readonly TokenRange[])[];
  /** What each rank holds already. */
  held: readonly (readonly TokenRange[])[];
  rotation: Rotation;
  wireDtype: WireDtype;
  /** Tokens in the whole prompt: what dynamic NTK scaling sees. */
  ropeLength: number;
}

/** How the lead of a decode step reaches the other ranks. One call per layer. */
export interface DecodeExchange {
  /** There are no other ranks: nobody is asked, and the token never leaves the GPU on its way through the layers. */
  isAlone?: boolean;
  /**
   * Sends the token's query (and, to the rank that keeps it, its key and value) to all other ranks and resolves with the
   * merge of their answers; undefined where nobody else holds anything.
   * @param query `[1, H, D]`
   * @param key `[1, K, D]`
   * @param value `[1, K, D]`
   */
  ask(
    layer: number,
    query: Float32Array<ArrayBuffer>,
    key: Float32Array<ArrayBuffer>,
    value: Float32Array<ArrayBuffer>,
  ): Promise<PartialAttention | undefined>;
}

/** K/V of some tokens in all layers, in host memory: what replicas and moves carry. f32. */
export interface HeldTokens {
  ranges: readonly TokenRange[];
  /** Per layer: keys `[count, K, D]`, then values `[count, K, D]`. */
  layers: readonly Uint8Array<ArrayBuffer>[];
}

/** See `openRank`. One operation at a time; each takes a signal, and after an abort or a failure {@link rollback} undoes it. */
export interface RankRun {
  readonly layerCount: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  /** Bytes of K/V per token in all layers. */
  readonly kvBytesPerToken: number;
  /** Positions whose K/V is here, in every layer. */
  readonly held: readonly TokenRange[];
  /** K/V bytes on the GPU, now. */
  readonly gpuBytes: number;
  /** With query shards and states: bytes on the GPU now, and at most so far. */
  readonly memory: Readonly<MemoryUse>;

  /** The rank's tokens of one operation through all layers, K/V kept. @param ids of the whole context so far. */
  forward(
    ids: ArrayLike<number>,
    plan: ForwardPlan,
    signal: AbortSignal,
    onSteps?: (layer: number, steps: readonly RankStep[]) => void,
  ): Promise<void>;

  /**
   * Decode, as the one who leads it: the token at `position` through all layers, its query answered by all ranks.
   * @param keeps This rank keeps the token's K/V (else the exchange has told another to).
   * @returns the logits `[V]`
   */
  lead(
    id: number,
    position: number,
    keeps: boolean,
    exchange: DecodeExchange,
    signal: AbortSignal,
  ): Promise<Float32Array<ArrayBuffer>>;

  /** Decode, as one who is asked: keeps the token's K/V where they are given, then answers its query over the own block. */
  answer(
    layer: number,
    position: number,
    query: Float32Array<ArrayBuffer>,
    keyValue: { key: Float32Array<ArrayBuffer>; value: Float32Array<ArrayBuffer> } | undefined,
    signal: AbortSignal,
  ): Promise<PartialAttention>;

  /** What the operation in progress has kept becomes part of what is held. */
  commit(): void;
  /** Forgets what was kept since the last {@link commit}. */
  rollback(): void;
  /** Forgets these positions (the whole context, where left out). */
  drop(ranges?: readonly TokenRange[]): Promise<void>;
  /** Copies K/V out. @throws {OptionError} for positions that are not held. */
  exportTokens(ranges: readonly TokenRange[], signal: AbortSignal): Promise<HeldTokens>;
  /** Keeps K/V that were computed elsewhere; committed at once. */
  importTokens(tokens: HeldTokens, signal: AbortSignal): Promise<void>;
  /** Gives all memory back; the model and its weights stay. */
  release(): void;
}
