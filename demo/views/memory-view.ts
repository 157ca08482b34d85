/** A bar per rank: bytes it holds on the GPU now, and a tick at the most it held. */
import { byId, html, rankColor } from "../dom.ts";
import { formatBytes } from "../format.ts";
import type { MemoryFacts } from "../protocol.ts";

/** Above this many ranks the rows stand in columns. */
const MOST_IN_ONE_COLUMN = 4;

/** Draws the memory of each rank beside that of all others. */
export class MemoryView {
  private readonly root = byId("memory");
  private readonly total = html("p", { class: "note" });
  private rows: { bar: HTMLElement; peak: HTMLElement; label: HTMLElement }[] = [];

  reset(worldSize: number): void {
    this.rows = [];
    const list = html("ul", { class: worldSize > MOST_IN_ONE_COLUMN ? "memory dense" : "memory" });
    for (let rank = 0; rank < worldSize; rank++) {
      const bar = html("span", { class: "memory-bar" });
      const peak = html("span", { class: "memory-peak", hidden: "" });
      const label = html("span", { class: "memory-label" }, "–");
      const row = html(
        "li",
        {},
        html("span", { class: "memory-rank" }, String(rank)),
        html("span", { class: "memory-track", "aria-hidden": "true" }, bar, peak),
        label,
      );
      row.style.setProperty("--c", rankColor(rank, worldSize));
      list.append(row);
      this.rows.push({ bar, peak, label });
    }
    this.total.textContent = "Nothing held yet.";
    this.root.replaceChildren(list, this.total);
  }

  /** @param note said below the bars. Default: what else is held on this device. */
  show(memory: MemoryFacts, note?: string): void {
    const most = Math.max(1, ...memory.ranks.map((rank) => rank.peakBytes));
    let ofRanks = 0;
    this.rows.forEach(({ bar, peak, label }, index) => {
      const rank = memory.ranks[index] ?? { bytes: 0, peakBytes: 0 };
      ofRanks += rank.bytes;
      bar.style.width = `${(rank.bytes / most) * 100}%`;
      peak.hidden = rank.peakBytes === 0;
      peak.style.left = `${(rank.peakBytes / most) * 100}%`;
      label.textContent = formatBytes(rank.bytes);
    });
    this.total.textContent =
      note ??
      `${formatBytes(ofRanks)} in the ranks, ${formatBytes(memory.bytes - ofRanks)} shared by all of them (weights, buffers to work in).`;
  }
}
