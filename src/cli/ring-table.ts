/** The ring's figures per rank, as `generate` and `demo` print them. */
import type { GenerateStatistics } from "../index.ts";
import { formatBytes, formatTable } from "./terminal.ts";

/** A table with one row a rank: tokens held, compute, transfer, wait, bytes. */
export function formatRing(ring: GenerateStatistics["ring"]): string {
  const rows = ring.ranks.map((rank) => [
    String(rank.rank),
    String(rank.kvTokens),
    rank.computeMs.toFixed(1),
    rank.transferMs.toFixed(1),
    rank.waitMs.toFixed(1),
    formatBytes(rank.peakGpuBytes),
  ]);
  const title = `ring of ${ring.worldSize}, ${ring.layout}, blocks in ${ring.blockMemory} memory`;
  return `${title}\n${formatTable([["rank", "tokens", "compute ms", "transfer ms", "wait ms", "peak"], ...rows])}`;
}

/** One line of totals. */
export function formatSpeed(statistics: Omit<GenerateStatistics, "newTokens" | "ring">): string {
  const { promptTokens, prefillTokensPerSecond, decodeTokensPerSecond, timeToFirstTokenMs, peakGpuBytes } = statistics;
  return [
    `${promptTokens} prompt tokens at ${prefillTokensPerSecond.toFixed(1)}/s`,
    `decode ${decodeTokensPerSecond.toFixed(1)} tokens/s`,
    `first token after ${(timeToFirstTokenMs / 1000).toFixed(2)} s`,
    `peak ${formatBytes(peakGpuBytes)} of GPU memory`,
  ].join(", ");
}
