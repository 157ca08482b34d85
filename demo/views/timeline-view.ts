/** One row per rank on one clock: when it computed, how long its block was on the way, and when it had to wait. */
import { byId, rankColor } from "../dom.ts";
import { formatMs } from "../format.ts";
import type { RingTurn } from "../protocol.ts";
import { ownerOf } from "./ring-view.ts";

type Step = RingTurn["steps"][number];

/** Steps in view, skipped ones not counted: enough to see the pattern, few enough to see one. At least one whole turn. */
const STEPS_IN_VIEW = 96;
const LABEL_WIDTH = 30;
const AXIS_HEIGHT = 20;
/** Room for the first row's number where rows are lower than it. */
const TOP = 4;

/** Draws the last turns on a canvas, at most once a frame. */
export class TimelineView {
  private readonly canvas = byId<HTMLCanvasElement>("timeline");
  private worldSize = 1;
  private turns: RingTurn[] = [];
  private frame = 0;
  /** Resolves CSS colours (variables, oklch) to what a canvas takes. */
  private colors = new Map<string, string>();

  constructor() {
    new ResizeObserver(() => this.schedule()).observe(this.canvas.parentElement!);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.colors.clear();
      this.schedule();
    });
  }

  reset(worldSize: number): void {
    this.worldSize = worldSize;
    this.turns = [];
    this.schedule();
  }

  add(turns: readonly RingTurn[]): void {
    if (turns.length === 0) return;
    this.turns.push(...turns);
    let first = this.turns.length - 1;
    let steps = 0;
    for (; first > 0; first--) {
      steps += this.turns[first]!.steps.filter((step) => !step.isSkipped).length;
      if (steps >= STEPS_IN_VIEW) break;
    }
    this.turns.splice(0, first);
    this.schedule();
  }

  private schedule(): void {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  private color(css: string): string {
    let color = this.colors.get(css);
    if (color === undefined) {
      this.canvas.style.color = css;
      color = getComputedStyle(this.canvas).color;
      this.canvas.style.color = "";
      this.colors.set(css, color);
    }
    return color;
  }

  private draw(): void {
    const width = this.canvas.clientWidth;
    const rowHeight = Math.max(5, Math.min(34, 204 / this.worldSize));
    const height = Math.round(TOP + rowHeight * this.worldSize + AXIS_HEIGHT);
    const ratio = devicePixelRatio || 1;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext("2d");
    if (!context || width === 0) return;
    context.scale(ratio, ratio);
    context.translate(0, TOP);
    this.drawRows(context, width, rowHeight);
    const steps = this.turns.flatMap((turn) => turn.steps);
    if (steps.length === 0) return;
    const startMs = Math.min(...steps.map((step) => step.startMs));
    const endMs = Math.max(...steps.map((step) => step.startMs + step.transferMs + step.computeMs), startMs + 1);
    const scale = (width - LABEL_WIDTH) / (endMs - startMs);
    for (const step of steps)
      this.drawStep(context, step, LABEL_WIDTH + (step.startMs - startMs) * scale, scale, rowHeight);
    this.drawAxis(context, width, rowHeight * this.worldSize, endMs - startMs);
  }

  private drawRows(context: CanvasRenderingContext2D, width: number, rowHeight: number): void {
    context.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    context.textBaseline = "middle";
    const labelEvery = Math.max(1, Math.ceil(13 / rowHeight));
    for (let rank = 0; rank < this.worldSize; rank++) {
      const y = rank * rowHeight;
      context.fillStyle = this.color("var(--sunken)");
      context.fillRect(LABEL_WIDTH, y + 1, width - LABEL_WIDTH, rowHeight - 2);
      if (rank % labelEvery !== 0) continue;
      context.fillStyle = this.color(rankColor(rank, this.worldSize));
      context.fillRect(0, y + 1, 4, rowHeight - 2);
      context.fillStyle = this.color("var(--muted)");
      context.fillText(String(rank), 9, y + rowHeight / 2 + 0.5);
    }
  }

  private drawStep(context: CanvasRenderingContext2D, step: Step, x: number, scale: number, rowHeight: number): void {
    if (step.isSkipped || step.rank >= this.worldSize) return;
    const y = step.rank * rowHeight + 1;
    const inner = rowHeight - 2;
    const strip = inner >= 10 ? 3 : inner >= 6 ? 1.5 : 0;
    // Touching bars keep a hairline between them where there is room for one.
    const gap = (bar: number) => Math.max(0.6, bar > 4 ? bar - 1 : bar);
    // A step starts when its block does; the GPU may wait for the end of the way, then the block is met.
    const arrival = x + step.transferMs * scale;
    if (step.transferMs > 0) {
      context.fillStyle = this.color("var(--transfer)");
      context.fillRect(x, y, gap(arrival - x), Math.max(1.5, inner * 0.24));
    }
    const waitWidth = step.waitMs * scale;
    if (waitWidth > 0.3) {
      context.fillStyle = this.color("var(--wait)");
      context.fillRect(arrival - waitWidth, y + inner * 0.24, gap(waitWidth), inner * 0.76 - strip);
    }
    const computeWidth = gap(step.computeMs * scale);
    context.fillStyle = this.color("var(--compute)");
    context.fillRect(arrival, y, computeWidth, inner - strip);
    if (strip > 0) {
      context.fillStyle = this.color(rankColor(ownerOf(step), this.worldSize));
      context.fillRect(arrival, y + inner - strip, computeWidth, strip);
    }
  }

  private drawAxis(context: CanvasRenderingContext2D, width: number, y: number, spanMs: number): void {
    context.fillStyle = this.color("var(--muted)");
    context.textBaseline = "top";
    context.fillText("0", LABEL_WIDTH, y + 5);
    const label = formatMs(spanMs);
    context.fillText(label, width - context.measureText(label).width, y + 5);
  }
}
