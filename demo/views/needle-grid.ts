/** The depth x length grid of the needle test: a table for everyone, coloured as it fills. */
import { byId, html } from "../dom.ts";
import { formatLength, formatSeconds } from "../format.ts";
import type { NeedleCell } from "../protocol.ts";

/** Depths run down, lengths to the right, as such grids are usually drawn. */
export class NeedleGrid {
  private readonly root = byId("needle-grid");
  private readonly summary = byId("needle-summary");
  private readonly cells = new Map<string, HTMLTableCellElement>();
  private done: NeedleCell[] = [];

  /** An empty grid. */
  begin(lengths: readonly number[], depths: readonly number[]): void {
    this.cells.clear();
    this.done = [];
    const head = html(
      "tr",
      {},
      html("th", { scope: "col" }, "Depth"),
      ...lengths.map((length) => html("th", { scope: "col" }, formatLength(length))),
    );
    const rows = depths.map((depth) =>
      html(
        "tr",
        {},
        html("th", { scope: "row" }, `${depth}%`),
        ...lengths.map((length) => {
          const cell = html(
            "td",
            { "data-state": "waiting" },
            html("span", { class: "visually-hidden" }, "not yet run"),
          );
          this.cells.set(`${length}/${depth}`, cell);
          return cell;
        }),
      ),
    );
    const caption = html("caption", {}, "Depth down, length in tokens across");
    this.root.replaceChildren(
      html("table", { class: "needle-table" }, caption, html("thead", {}, head), html("tbody", {}, ...rows)),
    );
    this.summary.textContent = "";
  }

  /** This cell is being run. */
  start(length: number, depth: number): void {
    this.fill(length, depth, "running", "…", "running");
  }

  /** This cell is known. */
  set(cell: NeedleCell): void {
    this.done.push(cell);
    const word = cell.isFound ? "found" : "missed";
    const element = this.fill(cell.length, cell.depth, word, cell.isFound ? "✓" : "✗", word);
    element?.append(html("small", {}, formatSeconds(cell.seconds)));
    if (element)
      element.title = `${cell.promptTokens} tokens. Expected “${cell.expected.trim()}”, got “${cell.answer.trim()}”.`;
    this.summary.textContent = `${this.found()} of ${this.done.length} found`;
  }

  /** The test has ended, of itself or stopped: cells under way go back to waiting. */
  end(isComplete: boolean): void {
    for (const cell of this.cells.values())
      if (cell.dataset.state === "running") {
        cell.dataset.state = "waiting";
        cell.replaceChildren(html("span", { class: "visually-hidden" }, "not run"));
      }
    if (this.cells.size === 0) return;
    const result = `${this.found()} of ${isComplete ? this.cells.size : this.done.length} found`;
    this.summary.textContent = isComplete ? result : `Stopped: ${result}`;
  }

  private found(): number {
    return this.done.filter((cell) => cell.isFound).length;
  }

  private fill(length: number, depth: number, state: string, glyph: string, word: string): HTMLElement | undefined {
    const cell = this.cells.get(`${length}/${depth}`);
    if (!cell) return undefined;
    cell.dataset.state = state;
    cell.replaceChildren(
      html("span", { class: "glyph", "aria-hidden": "true" }, glyph),
      html("span", { class: "visually-hidden" }, word),
    );
    return cell;
  }
}
