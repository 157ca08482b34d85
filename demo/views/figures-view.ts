/** The run in figures: six that matter, and a table with every rank. */
import type { GenerateStatistics, RankStatistics } from "../../src/index.ts";
import { byId, html, rankColor } from "../dom.ts";
import { formatBytes, formatCount, formatFigure, formatMs, formatShare } from "../format.ts";
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
  }

  /** One figure while the run goes on. */
  set(name: FigureName, text: string): void {
    this.values.get(name)!.textContent = text;
  }

  setMemory(memory: MemoryFacts): void {
    this.set("peak", formatBytes(memory.peakBytes));
  }

  /** The final figures. */
  finish(statistics: GenerateStatistics): void {
    this.set("prefill", formatFigure(statistics.prefillTokensPerSecond));
    this.set("decode", statistics.newTokens > 1 ? formatFigure(statistics.decodeTokensPerSecond) : "–");
    this.set("firstToken", formatMs(statistics.timeToFirstTokenMs));
    this.set("exposed", formatShare(statistics.exposedShare));
    this.set("peak", formatBytes(statistics.peakGpuBytes));
    this.set("prompt", formatCount(statistics.promptTokens));
    this.table.replaceChildren(rankTable(statistics.ring.ranks));
  }
}

function rankTable(ranks: readonly RankStatistics[]): HTMLTableElement {
  const columns = ["Rank", "K/V tokens", "Compute", "Transfer", "Wait", "GPU memory", "Peak"];
  const head = html("tr", {}, ...columns.map((column) => html("th", { scope: "col" }, column)));
  const rows = ranks.map((rank) => {
    const name = html(
      "th",
      { scope: "row" },
      html("span", { class: "swatch", "aria-hidden": "true" }),
      String(rank.rank),
    );
    name.style.setProperty("--c", rankColor(rank.rank, ranks.length));
    const cells = [
      formatCount(rank.kvTokens),
      formatMs(rank.computeMs),
      formatMs(rank.transferMs),
      formatMs(rank.waitMs),
      formatBytes(rank.gpuBytes),
      formatBytes(rank.peakGpuBytes),
    ];
    return html("tr", {}, name, ...cells.map((cell) => html("td", {}, cell)));
  });
  return html("table", { class: "rank-table" }, html("thead", {}, head), html("tbody", {}, ...rows));
}
