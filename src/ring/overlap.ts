/**
 * Can a ring hide its transfers behind its compute? Pure arithmetic, from measured figures. After the arithmetic-intensity
 * argument of Ring Attention (arXiv 2310.01889, section 3): there a host with a block of c tokens computes 4 d c^2 FLOPs per
 * step and receives 4 c d bytes (K and V, two bytes each), so compute hides the transfer from c >= F / B on.
 *
 * Here, per step, with q query tokens of the rank and a block of k tokens, H query heads, K key/value heads of D, e bytes
 * per element, F in multiply-adds per second, B in bytes per second:
 *
 *     compute   2 H D q k v / F seconds   (Q K^T and P V; v: the share of pairs that the mask lets through)
 *     transfer  2 K D e k / B seconds     (keys and values)
 *
 * k falls out: hidden where q >= (F / B) (K / H) e / v. So what counts is how many QUERY tokens a rank has in one op, however
 * much K/V goes around, and grouped heads divide the threshold by H / K. With F in FLOPs (two per multiply-add), e = 2 and K = H it
 * is the paper's c >= F / B. Under a causal mask v is 1/2 where the layout spreads the work (zigzag, striped), and 1 where one
 * rank has all of it (contiguous: the last rank sees every block whole, and the others wait for it).
 *
 * Where the queries rotate, a hop carries q tokens of query, acc, rowMax and rowSum, and meets a block of k tokens that stays:
 *
 *     transfer  (H D + H D + 2 H) 4 q / B seconds,  hidden where k >= (F / B) 4 (D + 1) / (D v)
 */
import { OptionError } from "../errors.ts";
import type { Rotation } from "./rank-types.ts";
import type { RingLayout } from "./types.ts";

/** Sizes of the attention that a ring runs. */
export interface OverlapShape {
  /** H */
  heads: number;
  /** K */
  kvHeads: number;
  /** D */
  headDim: number;
  /** Of K and V on the wire: 4 (f32) or 2 (f16). */
  bytesPerElement: number;
}

/** Measured: how fast a rank computes, and how fast its blocks arrive. */
export interface RankSpeed {
  /** F: multiply-adds per second of its attention. */
  multiplyAddsPerSecond: number;
  /** B: bytes per second of the link into it. */
  bytesPerSecond: number;
}

/** The mask's share in it. */
export interface OverlapMask {
  isCausal: boolean;
  layout: RingLayout;
}

function expectPositive(where: string, values: Readonly<Record<string, number>>): void {
  for (const [name, value] of Object.entries(values))
    if (!(value > 0 && value < Number.POSITIVE_INFINITY))
      throw new OptionError(`${where}: expected ${name} to be a positive number, got ${value}`);
}

/** Share of a step's pairs that the rank with most work computes: 1/2 under a causal mask that the layout balances. */
export const visibleShare = ({ isCausal, layout }: OverlapMask): number =>
  isCausal && layout !== "contiguous" ? 0.5 : 1;

/** Bytes that one token takes through one hop: keys and values, or query and state. */
export function hopBytesPerToken(shape: OverlapShape, rotation: Rotation): number {
  const { heads, kvHeads, headDim, bytesPerElement } = shape;
  return rotation === "keyValue" ? 2 * kvHeads * headDim * bytesPerElement : 4 * heads * (2 * headDim + 2);
}

/**
 * The number of tokens per rank from which compute hides the transfer: query tokens of one op where K/V rotate, tokens held
 * where the queries do. See the module's comment for the derivation.
 * @throws {OptionError} for sizes or speeds that are not positive.
 */
export function hidingTokens(
  shape: OverlapShape,
  speed: RankSpeed,
  mask: OverlapMask,
  rotation: Rotation = "keyValue",
): number {
  expectPositive("hidingTokens", { ...shape, ...speed });
  const seconds = hopBytesPerToken(shape, rotation) / speed.bytesPerSecond;
  const perPair = (2 * shape.heads * shape.headDim * visibleShare(mask)) / speed.multiplyAddsPerSecond;
  return Math.max(1, Math.ceil(seconds / perPair));
}

/** One rank's pass around the ring, in sizes. */
export interface ExposureOptions extends OverlapMask {
  shape: OverlapShape;
  speed: RankSpeed;
  worldSize: number;
  queryTokens: number;
  /** Per block. */
  kvTokens: number;
  /** Of the link. Default 0. */
  latencyMs?: number;
}

/** What a pass should take. Milliseconds. */
export interface ExposureForecast {
  computeMs: number;
  /** Of one hop. */
  transferMs: number;
  totalMs: number;
  /** Exposed communication: total less compute. No schedule can do better, for the link is busy all the time. */
  exposedMs: number;
}

/**
 * Times of a pass in which K/V rotate. Transfers follow each other from the beginning, so step i can begin when both step i-1 and
 * hop i are done: where a hop takes less than a step nothing is exposed, else the link is the bottleneck and each of the
 * n-1 hops shows what compute does not hide.
 */
export function forecastExposure(options: ExposureOptions): ExposureForecast {
  const { shape, speed, worldSize, queryTokens, kvTokens } = options;
  expectPositive("forecastExposure", { ...shape, ...speed, worldSize });
  const pairs = queryTokens * kvTokens * visibleShare(options);
  const stepMs = (2000 * shape.heads * shape.headDim * pairs) / speed.multiplyAddsPerSecond;
  const bytes = kvTokens * hopBytesPerToken(shape, "keyValue");
  const transferMs = (1000 * bytes) / speed.bytesPerSecond + (options.latencyMs ?? 0);
  const computeMs = worldSize * stepMs;
  const exposedMs = (worldSize - 1) * Math.max(0, transferMs - stepMs);
  return { computeMs, transferMs, totalMs: computeMs + exposedMs, exposedMs };
}

/** What {@link overlapSentence} speaks about. */
export interface OverlapReport extends OverlapMask {
  shape: OverlapShape;
  /** Of every rank, as far as measured. */
  speeds: readonly (RankSpeed | undefined)[];
  /** Query tokens of every rank in one op. */
  queryTokens: readonly number[];
}

const formatCount = (count: number) => count.toLocaleString("en-US");

/**
 * Whether this ring hides its transfers, and from what length on, as a sentence for people. Speaks of the rank that is farthest
 * from it: the ring goes at its pace.
 */
export function overlapSentence(report: OverlapReport): string {
  const { speeds, queryTokens, shape } = report;
  if (speeds.length < 2) return "A ring of one has no transfers to hide.";
  let worst: { rank: number; needed: number; has: number } | undefined;
  for (const [rank, speed] of speeds.entries()) {
    if (!speed) continue;
    const needed = hidingTokens(shape, speed, report);
    const has = queryTokens[rank] ?? 0;
    if (!worst || needed / Math.max(1, has) > worst.needed / Math.max(1, worst.has)) worst = { rank, needed, has };
  }
  if (!worst) return "Not measured yet: whether this ring hides its transfers.";
  const from = `${formatCount(worst.needed)} tokens per rank and pass on`;
  const has = `rank ${worst.rank}, the farthest from it, has ${formatCount(worst.has)}`;
  return worst.has >= worst.needed
    ? `This ring hides its transfers from ${from}: ${has}.`
    : `This ring does not hide its transfers yet: it would from ${from}; ${has}.`;
}

/** What {@link chooseRotation} weighs. */
export interface RotationOptions {
  shape: OverlapShape;
  /** Query tokens of every rank in this pass. */
  queryTokens: readonly number[];
  /** Tokens that every rank holds, this pass's own included. */
  kvTokens: readonly number[];
}

const total = (counts: readonly number[]) => counts.reduce((sum, count) => sum + count, 0);

/** Bytes over all links in one pass, either way. A state goes once more than a block does: home. */
export function rotationBytes({ shape, queryTokens, kvTokens }: RotationOptions): Record<Rotation, number> {
  const hops = queryTokens.length - 1;
  const { heads, headDim } = shape;
  const state = total(queryTokens) * heads * (headDim + 2) * 4;
  return {
    keyValue: hops * total(kvTokens) * hopBytesPerToken(shape, "keyValue"),
    query: hops * total(queryTokens) * hopBytesPerToken(shape, "query") + (hops > 0 ? state : 0),
  };
}

/** What goes around: whatever moves fewer bytes; K/V where both move as many. A short new part of a long context moves queries. */
export function chooseRotation(options: RotationOptions): Rotation {
  const bytes = rotationBytes(options);
  return bytes.query < bytes.keyValue ? "query" : "keyValue";
}
