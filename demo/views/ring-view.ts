/**
 * The ring as it turns: ranks on a circle, and outside of each the K/V block that it meets in this step. Turns arrive
 * when they are computed; they are replayed at a speed that eyes can follow, and those that come meanwhile are left out.
 */
import { byId, html, isMotionReduced, rankColor, svg } from "../dom.ts";
import type { RingTurn } from "../protocol.ts";

const SIZE = 400;
const CENTER = SIZE / 2;
const NODE_RADIUS = 118;
const BLOCK_RADIUS = 166;
const INNER_RADIUS = 84;
/** Share of a step in which blocks move; in the rest they are met. */
const MOVE_SHARE = 0.4;

interface RankShapes {
  node: SVGGElement;
  block: SVGGElement;
  link: SVGLineElement;
}

const computeMs = (turn: RingTurn): number => turn.steps.reduce((sum, step) => sum + step.computeMs, 0);

/** A point on a circle around the centre; rank 0 at the top, clockwise. */
function place(radius: number, turn: number): [x: number, y: number] {
  const angle = turn * 2 * Math.PI - Math.PI / 2;
  return [CENTER + radius * Math.cos(angle), CENTER + radius * Math.sin(angle)];
}

/** Draws one ring of `worldSize` ranks and replays the turns it is given. */
export class RingView {
  private readonly root = byId("ring");
  private readonly caption = byId("ring-caption");
  private readonly note = byId("ring-note");
  private ranks: RankShapes[] = [];
  private readonly title = svg("text", { class: "ring-title", x: CENTER, y: CENTER - 4 });
  private readonly subtitle = svg("text", { class: "ring-subtitle", x: CENTER, y: CENTER + 18 });
  private arc = svg("circle", { class: "ring-read", cx: CENTER, cy: CENTER, r: INNER_RADIUS, pathLength: 1 });
  private worldSize = 0;
  private pending: RingTurn | undefined;
  private playing: { turn: RingTurn; startMs: number; stepMs: number } | undefined;
  private shownStep = -1;
  private frame = 0;

  /** A resting ring: every rank holds its own block. */
  reset(worldSize: number): void {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.pending = this.playing = undefined;
    if (worldSize !== this.worldSize) this.build(worldSize);
    this.rest();
    this.setRead(0);
    this.write(worldSize === 1 ? "1 rank" : `${worldSize} ranks`, "at rest");
    this.caption.textContent = "";
    this.note.textContent =
      worldSize === 1
        ? "One rank holds the whole text. With more, its keys and values are split into blocks that travel from rank to rank."
        : `Circles are ranks, squares their K/V blocks. Each step, every block moves on by one rank and meets its queries; after ${worldSize} steps each rank has met the whole text.`;
  }

  /** How much of the text is read, 0 to 1. */
  setRead(share: number): void {
    this.arc.style.strokeDashoffset = String(1 - Math.min(1, share));
    this.arc.style.visibility = share > 0 ? "visible" : "hidden";
  }

  /** Shows one of these turns next: of all that come before it can start, the one with most to compute. */
  play(turns: readonly RingTurn[]): void {
    for (const turn of turns) if (!this.pending || computeMs(turn) >= computeMs(this.pending)) this.pending = turn;
    if (!this.pending) return;
    this.frame ||= requestAnimationFrame(this.draw);
  }

  /** The answer is being written: the ring stands still, the query goes to every rank, and their answers are merged. */
  decode(): void {
    if (this.root.dataset.phase === "decode") return;
    this.halt();
    this.root.dataset.phase = "decode";
    this.write("Answering", this.worldSize === 1 ? "" : "query to every rank");
    this.caption.textContent = "";
  }

  /** Leaves the ring at rest after a run. */
  finish(label: string): void {
    this.halt();
    this.write(this.worldSize === 1 ? "1 rank" : `${this.worldSize} ranks`, label);
    this.caption.textContent = "";
  }

  private halt(): void {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.pending = this.playing = undefined;
    this.rest();
  }

  private rest(): void {
    delete this.root.dataset.phase;
    this.shownStep = -1;
    this.ranks.forEach((shapes, rank) => {
      this.moveBlock(rank, rank);
      this.mark(rank, "idle");
      shapes.block.dataset.skipped = "false";
    });
  }

  private build(worldSize: number): void {
    this.worldSize = worldSize;
    const spacing = (2 * Math.PI * NODE_RADIUS) / worldSize;
    const nodeSize = Math.min(23, spacing * 0.42);
    const blockSize = Math.min(30, ((2 * Math.PI * BLOCK_RADIUS) / worldSize) * 0.62);
    const drawing = svg("svg", {
      viewBox: `0 0 ${SIZE} ${SIZE}`,
      class: "ring",
      role: "img",
      "aria-labelledby": "ring-heading ring-note",
    });
    drawing.append(
      svg("circle", { class: "ring-track", cx: CENTER, cy: CENTER, r: BLOCK_RADIUS }),
      svg("circle", { class: "ring-inner", cx: CENTER, cy: CENTER, r: INNER_RADIUS }),
      this.arc,
    );
    this.ranks = Array.from({ length: worldSize }, (_, rank) => {
      const color = rankColor(rank, worldSize);
      const [x, y] = place(NODE_RADIUS, rank / worldSize);
      const [bx, by] = place(BLOCK_RADIUS, rank / worldSize);
      const [sx, sy] = place(INNER_RADIUS, rank / worldSize);
      const spoke = svg("line", { class: "ring-spoke", x1: sx, y1: sy, x2: x, y2: y });
      const link = svg("line", { class: "ring-link", x1: x, y1: y, x2: bx, y2: by });
      const node = svg("g", { class: "ring-node", transform: `translate(${x} ${y})` }, svg("circle", { r: nodeSize }));
      node.style.setProperty("--c", color);
      const half = blockSize / 2;
      const corner = blockSize * 0.24;
      const block = svg(
        "g",
        { class: "ring-block" },
        svg("rect", { x: -half, y: -half, width: blockSize, height: blockSize, rx: corner }),
      );
      block.style.setProperty("--c", color);
      if (worldSize <= 24) {
        const fontSize = Math.min(15, nodeSize * 0.9);
        node.append(svg("text", { "font-size": fontSize }, String(rank)));
        block.append(svg("text", { "font-size": Math.min(14, blockSize * 0.5) }, String(rank)));
      }
      drawing.append(spoke, link);
      return { node, block, link };
    });
    drawing.append(
      ...this.ranks.map(({ node }) => node),
      ...this.ranks.map(({ block }) => block),
      this.title,
      this.subtitle,
    );
    this.root.replaceChildren(html("div", { class: "ring-frame" }, drawing as unknown as Node));
  }

  private readonly draw = (nowMs: number): void => {
    this.frame = 0;
    if (!this.playing) {
      if (!this.pending) return;
      const steps = 1 + Math.max(0, ...this.pending.steps.map((step) => step.step));
      // A turn of 4 takes about a second, one of 64 six.
      const stepMs = Math.min(6000, Math.max(700, steps * 260)) / steps;
      this.playing = { turn: this.pending, startMs: nowMs, stepMs };
      this.pending = undefined;
      this.shownStep = -1;
      delete this.root.dataset.phase;
    }
    const { turn, startMs, stepMs } = this.playing;
    const time = (nowMs - startMs) / stepMs;
    const step = Math.floor(time);
    const stepCount = 1 + Math.max(0, ...turn.steps.map((each) => each.step));
    if (step >= stepCount) this.playing = undefined;
    else this.drawStep(turn, step, stepCount, time - step);
    if (this.playing || this.pending) this.frame = requestAnimationFrame(this.draw);
  };

  private drawStep(turn: RingTurn, step: number, stepCount: number, share: number): void {
    const isNew = step !== this.shownStep;
    this.shownStep = step;
    const moved = isMotionReduced() ? 1 : Math.min(1, share / MOVE_SHARE);
    const eased = 1 - (1 - moved) ** 3;
    let skipped = 0;
    for (const met of turn.steps) {
      if (met.step !== step || met.rank >= this.worldSize) continue;
      if (met.isSkipped) skipped++;
      // In step s a block has moved s ranks on from its owner; it comes from the rank before.
      const from = step === 0 ? met.rank : met.rank - 1;
      this.moveBlock(met.kvRank, from + (step === 0 ? 0 : eased));
      this.ranks[met.kvRank]!.block.dataset.skipped = String(met.isSkipped);
      this.mark(met.rank, moved < 1 ? "idle" : met.isSkipped ? "skipped" : "meets");
    }
    if (!isNew) return;
    this.write(`Step ${step + 1} of ${stepCount}`, `layer ${turn.layer + 1} of ${turn.layerCount}`);
    this.caption.textContent = skipped > 0 ? `${skipped} of ${this.worldSize} skipped: hidden by the mask` : "";
  }

  /** Puts a block beside a rank, which may lie between two. */
  private moveBlock(block: number, rank: number): void {
    const shapes = this.ranks[block];
    if (!shapes) return;
    const [x, y] = place(BLOCK_RADIUS, rank / this.worldSize);
    shapes.block.setAttribute("transform", `translate(${x.toFixed(2)} ${y.toFixed(2)})`);
  }

  private mark(rank: number, state: "idle" | "meets" | "skipped"): void {
    const shapes = this.ranks[rank]!;
    if (shapes.node.dataset.state === state) return;
    shapes.node.dataset.state = state;
    shapes.link.dataset.state = state;
  }

  private write(title: string, subtitle: string): void {
    this.title.textContent = title;
    this.subtitle.textContent = subtitle;
  }
}
