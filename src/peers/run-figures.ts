/** The figures of a run over peers: what the leader knows of every rank's part, kept while the run goes. */

import { overlapSentence } from "../ring/overlap.ts";
import type { Rotation } from "../ring/rank-types.ts";
import { tokenCount } from "../ring/shard.ts";
import type { PeerCore } from "./core.ts";
import type { OpFigures, RunInfo } from "./messages.ts";
import type { PeerGenerateStatistics, PeerRankStatistics } from "./types.ts";

/** One rank's sums; figures of now stand beside sums over the run. */
type Sums = Omit<PeerRankStatistics, "rank" | "peerId" | "name" | "adapterName" | "kvTokens">;

/** Fills a {@link PeerGenerateStatistics} as a run goes. */
export class RunFigures {
  readonly statistics: PeerGenerateStatistics;
  private readonly sums = new Map<string, Sums>();
  private readonly startMs: number;
  private prefillMs = 0;
  private decodeMs = 0;
  private decodeTokens = 0;
  private lastTokens: readonly number[] = [];

  constructor(
    private readonly core: PeerCore,
    info: RunInfo,
  ) {
    this.startMs = core.clock.now();
    this.statistics = {
      promptTokens: info.promptLength,
      newTokens: 0,
      prefillTokensPerSecond: 0,
      decodeTokensPerSecond: 0,
      timeToFirstTokenMs: 0,
      exposedShare: 0,
      peakGpuBytes: 0,
      stopReason: "aborted",
      ring: {
        worldSize: core.epoch?.ranks.length ?? 1,
        layout: info.layout,
        blockMemory: "gpu",
        ranks: [],
        wireDtype: info.wireDtype,
        rotations: { keyValue: 0, query: 0 },
        epochs: 0,
        recoveredTokens: 0,
        recoveryMs: [],
        overlap: "",
      },
    };
  }

  /** A rank has done its part of an operation of prefill. */
  record(peerId: string, figures: OpFigures): void {
    const sums = this.sumsOf(peerId);
    for (const key of ["computeMs", "transferMs", "waitMs", "sentBytes", "receivedBytes"] as const)
      sums[key] += figures[key];
    sums.gpuBytes = figures.gpuBytes;
    sums.peakGpuBytes = Math.max(sums.peakGpuBytes, figures.peakGpuBytes);
    if (figures.computeMs > 1 && figures.multiplyAdds > 0)
      sums.multiplyAddsPerSecond = (figures.multiplyAdds / figures.computeMs) * 1000;
    if (figures.bytesPerSecond !== undefined) sums.bytesPerSecond = figures.bytesPerSecond;
  }

  /** An operation of prefill is over on all ranks. @param tokens of each rank in it */
  forward(milliseconds: number, rotation: Rotation, tokens: readonly number[], isPrompt: boolean): void {
    const { statistics } = this;
    if (isPrompt) this.prefillMs += milliseconds;
    this.lastTokens = tokens;
    statistics.ring.rotations[rotation]++;
  }

  epoch(): void {
    this.statistics.ring.epochs++;
  }

  recovered(tokens: number, milliseconds: number): void {
    this.statistics.ring.recoveredTokens += tokens;
    this.statistics.ring.recoveryMs.push(milliseconds);
  }

  /** A token came out of an operation that took so long. */
  token(count: number, milliseconds: number): void {
    const { statistics } = this;
    statistics.newTokens = count;
    if (count === 1) {
      this.prefillMs += milliseconds;
      statistics.timeToFirstTokenMs = this.core.clock.now() - this.startMs;
    } else {
      this.decodeMs += milliseconds;
      this.decodeTokens++;
    }
  }

  /** Brings everything up to date: before what is held is dropped. */
  update(stopReason?: PeerGenerateStatistics["stopReason"]): void {
    const { statistics, core } = this;
    const { ring } = statistics;
    const perSecond = (count: number, milliseconds: number) => (count / Math.max(milliseconds, 1e-3)) * 1000;
    statistics.prefillTokensPerSecond = this.prefillMs > 0 ? perSecond(statistics.promptTokens, this.prefillMs) : 0;
    if (this.decodeTokens > 0) statistics.decodeTokensPerSecond = perSecond(this.decodeTokens, this.decodeMs);
    if (stopReason) statistics.stopReason = stopReason;
    const { epoch } = core;
    if (epoch) {
      ring.worldSize = epoch.ranks.length;
      ring.ranks = epoch.ranks.map(({ id }, rank) => this.rankStatistics(id, rank));
    }
    const waitMs = ring.ranks.reduce((sum, rank) => sum + rank.waitMs, 0);
    statistics.exposedShare =
      this.prefillMs > 0 ? Math.min(1, waitMs / Math.max(1, ring.ranks.length) / this.prefillMs) : 0;
    statistics.peakGpuBytes = Math.max(statistics.peakGpuBytes, ...ring.ranks.map(({ peakGpuBytes }) => peakGpuBytes));
    ring.overlap = this.overlap();
  }

  private sumsOf(peerId: string): Sums {
    let sums = this.sums.get(peerId);
    if (!sums) {
      sums = { computeMs: 0, transferMs: 0, waitMs: 0, gpuBytes: 0, peakGpuBytes: 0, sentBytes: 0, receivedBytes: 0 };
      this.sums.set(peerId, sums);
    }
    return sums;
  }

  private rankStatistics(id: string, rank: number): PeerRankStatistics {
    const { core } = this;
    const isSelf = id === core.id;
    const member = core.members.get(id);
    const sums = this.sumsOf(id);
    const used = isSelf ? core.engine.open?.rank.gpuBytes : member?.status?.usedBytes;
    sums.peakGpuBytes = Math.max(sums.peakGpuBytes, used ?? 0);
    const { epoch } = core;
    const next = epoch?.ranks[(rank + 1) % epoch.ranks.length]?.id;
    const link = isSelf && next !== undefined ? core.members.get(next)?.link : member?.link;
    return {
      ...sums,
      rank,
      peerId: id,
      name: core.nameOf(id),
      adapterName: isSelf ? core.engine.adapterName : (member?.status?.adapterName ?? ""),
      kvTokens: tokenCount(epoch?.held?.[rank] ?? []),
      ...(link && { linkKind: link.kind }),
    };
  }

  private overlap(): string {
    const { core, statistics } = this;
    const rank = core.engine.open?.rank;
    const { ranks, layout, wireDtype } = statistics.ring;
    if (!rank || ranks.length !== this.lastTokens.length) return "";
    const { heads, kvHeads, headDim } = rank;
    return overlapSentence({
      shape: { heads, kvHeads, headDim, bytesPerElement: wireDtype === "f16" ? 2 : 4 },
      isCausal: true,
      layout,
      speeds: ranks.map(({ multiplyAddsPerSecond, bytesPerSecond }) =>
        multiplyAddsPerSecond && bytesPerSecond ? { multiplyAddsPerSecond, bytesPerSecond } : undefined,
      ),
      queryTokens: this.lastTokens,
    });
  }
}
