/** The figures of a ring of peers, one row a rank. */
import type { PeerGenerateStatistics } from "../index.ts";
import { formatBytes, formatTable } from "./terminal.ts";

const perSecond = (value: number | undefined, unit: number): string =>
  value === undefined ? "-" : (value / unit).toFixed(1);

/** A table of the ranks (tokens, times, bytes, measured speeds), and the sentence about hiding transfers. */
export function formatPeerRing(ring: PeerGenerateStatistics["ring"]): string {
  const rows = ring.ranks.map((rank) => [
    String(rank.rank),
    rank.name,
    rank.linkKind ?? "-",
    String(rank.kvTokens),
    rank.computeMs.toFixed(1),
    rank.transferMs.toFixed(1),
    rank.waitMs.toFixed(1),
    formatBytes(rank.receivedBytes),
    perSecond(rank.multiplyAddsPerSecond, 1e9),
    perSecond(rank.bytesPerSecond, 2 ** 20),
    formatBytes(rank.peakGpuBytes),
  ]);
  const header = [
    ...["rank", "peer", "link", "tokens", "compute ms", "transfer ms", "wait ms", "received"],
    ...["GMAC/s", "MiB/s", "peak"],
  ];
  const { keyValue, query } = ring.rotations;
  const title = `ring of ${ring.worldSize} peers, ${ring.layout}, ${ring.wireDtype} on the wire, keys and values rotated ${keyValue} times, queries ${query} times`;
  const recovered = ring.recoveredTokens > 0 ? `\n${ring.recoveredTokens} tokens computed again after losses` : "";
  return `${title}${recovered}\n${formatTable([header, ...rows])}${ring.overlap ? `\n${ring.overlap}` : ""}`;
}
