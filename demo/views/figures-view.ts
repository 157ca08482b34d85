/** The run in figures: six that matter, and a table with every rank. */
import type {
  GenerateStatistics,
  PeerGenerateStatistics,
  PeerRankStatistics,
  RankStatistics,
} from "../../src/index.ts";
import { byId, html, rankColor } from "../dom.ts";
import { formatBytes, formatCount, formatFigure, formatMs, formatRate, formatSeconds, formatShare } from "../format.ts";
import type { MemoryFacts } from "../protocol.ts";

const FIGURES = [
  ["prefill", "Reading", "tokens/s"],
  ["decode", "Answering", "tokens/s"],
  ["firstToken", "Time to first token", ""],
  ["exposed", "Exposed communication", "of reading time"],
  ["peak", "GPU memory, peak", ""],
  ["prompt", "Text and question", "tokens"],
] as const;

type FigureName = (typeof FIGURES)[number][0];

/** Shows figures as they come; what is not known yet is a dash. */
export class FiguresView {
  private readonly values = new Map<FigureName, HTMLElement>();
  private readonly table = byId("rank-table");
  private readonly overlap = byId("overlap");

  constructor() {
    byId("figures").replaceChildren(
      ...FIGURES.map(([name, label, unit]) => {
        const value = html("span", { class: "value" }, "–");
        this.values.set(name, value);
        return html("div", {}, html("dt", {}, label), html("dd", {}, value, html("span", { class: "unit" }, unit)));
      }),
    );
    this.reset();
  }

  reset(): void {
    for (const value of this.values.values()) value.textContent = "–";
    this.table.replaceChildren(html("p", { class: "note" }, "After a run, one row per rank."));
    this.overlap.hidden = true;
  }

  /** One figure while the run goes on. */
  set(name: FigureName, text: string): void {
    this.values.get(name)!.textContent = text;
  }

  setMemory(memory: MemoryFacts): void {
    this.set("peak", formatBytes(memory.peakBytes));
  }

  /** The final figures. */
  finish(statistics: GenerateStatistics | PeerGenerateStatistics): void {
    this.set("prefill", formatFigure(statistics.prefillTokensPerSecond));
    this.set("decode", statistics.newTokens > 1 ? formatFigure(statistics.decodeTokensPerSecond) : "–");
    this.set("firstToken", formatMs(statistics.timeToFirstTokenMs));
    this.set("exposed", formatShare(statistics.exposedShare));
    this.set("peak", formatBytes(statistics.peakGpuBytes));
    this.set("prompt", formatCount(statistics.promptTokens));
    this.table.replaceChildren(rankTable(statistics.ring.ranks));
    if (!("wireDtype" in statistics.ring)) return;
    this.overlap.hidden = false;
    this.overlap.textContent = describePeerRun(statistics.ring);
  }
}

/** How the ring of peers did, in sentences: what travelled, what was lost and won back, whether transfers can be hidden. */
function describePeerRun(ring: PeerGenerateStatistics["ring"]): string {
  const { rotations, wireDtype, epochs, recoveredTokens, recoveryMs, overlap } = ring;
  const sentences: string[] = [];
  const chunks = rotations.keyValue + rotations.query;
  if (ring.worldSize > 1 && rotations.query === 0) sentences.push(`K/V blocks travelled, as ${wireDtype}.`);
  else if (ring.worldSize > 1)
    sentences.push(
      `K/V blocks travelled for ${formatCount(rotations.keyValue)} of ${formatCount(chunks)} chunks of the text, as ${wireDtype}; queries, being fewer bytes, for the others.`,
    );
  if (overlap) sentences.push(overlap);
  if (epochs > 1) sentences.push(`The ring was formed ${formatCount(epochs)} times, since peers came or went.`);
  if (recoveredTokens > 0) {
    const longest = Math.max(0, ...recoveryMs);
    sentences.push(
      `${formatCount(recoveredTokens)} tokens were computed again; the longest interruption took ${formatSeconds(longest / 1000)}.`,
    );
  }
  return sentences.join(" ");
}

const isOfPeer = (rank: RankStatistics): rank is PeerRankStatistics => "peerId" in rank;

function rankTable(ranks: readonly RankStatistics[]): HTMLTableElement {
  const hasPeers = ranks.some(isOfPeer);
  const columns = [
    "Rank",
    ...(hasPeers ? ["Peer"] : []),
    "K/V tokens",
    "Compute",
    "Transfer",
    "Wait",
    "GPU memory",
    "Peak",
    ...(hasPeers ? ["Sent", "Received", "Speed", "Link"] : []),
  ];
  const head = html("tr", {}, ...columns.map((column) => html("th", { scope: "col" }, column)));
  const rows = ranks.map((rank) => {
    const name = html(
      "th",
      { scope: "row" },
      html("span", { class: "swatch", "aria-hidden": "true" }),
      String(rank.rank),
    );
    name.style.setProperty("--c", rankColor(rank.rank, ranks.length));
    const peer = isOfPeer(rank) ? rank : undefined;
    const cells = [
      ...(peer ? [peer.name] : []),
      formatCount(rank.kvTokens),
      formatMs(rank.computeMs),
      formatMs(rank.transferMs),
      formatMs(rank.waitMs),
      formatBytes(rank.gpuBytes),
      formatBytes(rank.peakGpuBytes),
      ...(peer
        ? [
            formatBytes(peer.sentBytes),
            formatBytes(peer.receivedBytes),
            peer.multiplyAddsPerSecond ? formatRate(peer.multiplyAddsPerSecond) : "–",
            peer.bytesPerSecond ? `${formatFigure(peer.bytesPerSecond / 1e6)}\u00a0MB/s` : "–",
          ]
        : []),
    ];
    return html("tr", {}, name, ...cells.map((cell) => html("td", {}, cell)));
  });
  return html("table", { class: "rank-table" }, html("thead", {}, head), html("tbody", {}, ...rows));
}
