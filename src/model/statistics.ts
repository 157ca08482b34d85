/** The figures of a run, kept while it goes: rates, time to first token, each rank's share, memory. */
import { ledgerOf, type MemoryLedger } from "../gpu/ledger.ts";
import type { RingStep } from "../ring/types.ts";
import type { GenerateStatistics, RankStatistics, RingOptions } from "./types.ts";

/** One chunk of prefill that is done: `count` tokens from position `start`. */
export interface ChunkTime {
  start: number;
  count: number;
  seconds: number;
}

/**
 * Time that the rest of a prefill will take. A token costs a fixed part (projections, MLP) and a part that grows with the
 * context before it (attention): both are fitted to the chunks done so far by least squares.
 * @returns seconds for the tokens after the last chunk, up to `totalTokens`.
 */
export function estimateSecondsLeft(chunks: readonly ChunkTime[], totalTokens: number): number {
  const last = chunks.at(-1);
  if (!last) return 0;
  const done = last.start + last.count;
  if (done >= totalTokens) return 0;
  // Seconds per token y over the context x in the middle of each chunk: y = fixed + growth * x.
  const points = chunks.map(({ start, count, seconds }) => ({
    x: start + count / 2,
    y: seconds / count,
    weight: count,
  }));
  const total = (of: (point: (typeof points)[number]) => number) =>
    points.reduce((sum, point) => sum + point.weight * of(point), 0);
  const weight = total(() => 1);
  const meanX = total(({ x }) => x) / weight;
  const meanY = total(({ y }) => y) / weight;
  const variance = total(({ x }) => (x - meanX) ** 2);
  const growth = variance > 0 ? Math.max(0, total(({ x, y }) => (x - meanX) * (y - meanY)) / variance) : 0;
  const middle = (done + totalTokens) / 2;
  return Math.max(0, (totalTokens - done) * (meanY + growth * (middle - meanX)));
}

/** Fills a {@link GenerateStatistics} as a run goes, so that it can be read at any moment. */
export class StatisticsRecorder {
  /** What the caller sees; complete when the run has ended. */
  readonly statistics: GenerateStatistics;
  private startMs = 0;
  private prefillMs = 0;
  private decodeMs = 0;
  private decodeTokens = 0;
  private waitMs = 0;

  constructor(
    private readonly device: GPUDevice,
    ring: Required<RingOptions>,
    /** Bytes of the model's ranks: the device's own ledger knows the ranks of every model on it, all as one. */
    private readonly ledger: MemoryLedger,
  ) {
    const { worldSize, layout, blockMemory } = ring;
    const ranks = Array.from(
      { length: worldSize },
      (_, rank): RankStatistics => ({
        rank,
        kvTokens: 0,
        computeMs: 0,
        transferMs: 0,
        waitMs: 0,
        gpuBytes: 0,
        peakGpuBytes: 0,
      }),
    );
    this.statistics = {
      promptTokens: 0,
      newTokens: 0,
      prefillTokensPerSecond: 0,
      decodeTokensPerSecond: 0,
      timeToFirstTokenMs: 0,
      exposedShare: 0,
      peakGpuBytes: 0,
      stopReason: "aborted",
      ring: { worldSize, layout, blockMemory, ranks },
    };
  }

  /** The run begins: peaks start anew, those of the device's ledger too. */
  start(): void {
    this.startMs = performance.now();
    ledgerOf(this.device).resetPeaks();
    this.ledger.resetPeaks();
  }

  /** Ring steps of prefill. */
  steps(steps: readonly RingStep[]): void {
    for (const step of steps) {
      const rank = this.statistics.ring.ranks[step.rank];
      if (!rank) continue;
      rank.computeMs += step.computeMs;
      rank.transferMs += step.transferMs;
      rank.waitMs += step.waitMs;
      this.waitMs += step.waitMs;
    }
  }

  /** All of the prompt is in the cache and the first token is known. */
  prefillDone(promptTokens: number, prefillMs: number): void {
    this.prefillMs = prefillMs;
    this.statistics.promptTokens = promptTokens;
    this.statistics.prefillTokensPerSecond = (promptTokens / Math.max(prefillMs, 1e-3)) * 1000;
    this.statistics.timeToFirstTokenMs = performance.now() - this.startMs;
  }

  /** One more token, whose step took so many milliseconds. */
  decoded(timeMs: number): void {
    this.decodeMs += timeMs;
    this.decodeTokens += 1;
    this.statistics.decodeTokensPerSecond = (this.decodeTokens / Math.max(this.decodeMs, 1e-3)) * 1000;
  }

  /** A token was given out. */
  token(): void {
    this.statistics.newTokens += 1;
  }

  /** Memory and what each rank holds, as of now. Called before the KV cache is released. */
  memory(kvTokens: readonly number[]): void {
    this.statistics.peakGpuBytes = ledgerOf(this.device).total.peakBytes;
    this.statistics.exposedShare = this.prefillMs > 0 ? Math.min(1, this.waitMs / this.prefillMs) : 0;
    for (const rank of this.statistics.ring.ranks) {
      const use = this.ledger.of(rank.rank);
      rank.kvTokens = kvTokens[rank.rank] ?? 0;
      rank.gpuBytes = use.bytes;
      rank.peakGpuBytes = use.peakBytes;
    }
  }

  /** How the run ended. */
  finish(reason: GenerateStatistics["stopReason"]): void {
    this.statistics.stopReason = reason;
  }
}
