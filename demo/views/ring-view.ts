/**
 * The ring as it turns: ranks on a circle, and outside of each the K/V block that it meets in this step. Turns arrive
 * when they are computed; they are replayed at a speed that eyes can follow, and those that come meanwhile are left out.
 */

import type { RankStep, Rotation } from "../../src/index.ts";
import { byId, html, isMotionReduced, rankColor, svg } from "../dom.ts";
import type { PeerTurn } from "../peers/peer-protocol.ts";
import type { RingTurn } from "../protocol.ts";

const SIZE = 400;
const CENTER = SIZE / 2;
const NODE_RADIUS = 118;
const BLOCK_RADIUS = 166;
const INNER_RADIUS = 84;
/** Share of a step in which blocks move; in the rest they are met. */
const MOVE_SHARE = 0.4;

/** A place on the circle: a rank, or one who is not (or no longer) part of the ring. */
export interface RingSeat {
  /** Which peer sits here; for ranks of one device, any name. */
  id: string;
  rank?: number;
  state: "ok" | "suspected" | "gone" | "waiting";
  /** What pointing at it says. */
  title: string;
}

/** Ranks of one device. */
const plainSeats = (worldSize: number): RingSeat[] =>
  Array.from({ length: worldSize }, (_, rank) => ({ id: String(rank), rank, state: "ok", title: `Rank ${rank}` }));

const GLYPHS: Partial<Record<RingSeat["state"], string>> = { gone: "×", waiting: "…" };

const notes = {
  one: "One rank holds the whole text. With more, its keys and values are split into blocks that travel from rank to rank.",
  keyValue: (worldSize: number) =>
    `Circles are ranks, squares their K/V blocks. Each step, every block moves on by one rank and meets its queries; after ${worldSize} steps each rank has met the whole text.`,
  query: (worldSize: number) =>
    `Here the queries travel, being fewer bytes than the K/V blocks, which stay. Each step, every rank’s queries (hollow squares) move on by one; after ${worldSize} steps they have met the whole text.`,
};

interface RankShapes {
  node: SVGGElement;
  block: SVGGElement;
  link: SVGLineElement;
}

/** Whose block, or whose queries where those travel, a rank meets in a step. */
export function ownerOf(step: RingTurn["steps"][number] & Partial<RankStep>): number {
  return step.rotation === "query" ? (step.queryRank ?? step.rank) : step.kvRank;
}

const computeMs = (turn: RingTurn): number => turn.steps.reduce((sum, step) => sum + step.computeMs, 0);

/** A point on a circle around the centre; rank 0 at the top, clockwise. */
function place(radius: number, turn: number): [x: number, y: number] {
  const angle = turn * 2 * Math.PI - Math.PI / 2;
  return [CENTER + radius * Math.cos(angle), CENTER + radius * Math.sin(angle)];
}

/** Draws one ring and replays the turns it is given. */
export class RingView {
  private readonly root = byId("ring");
  private readonly caption = byId("ring-caption");
  private readonly note = byId("ring-note");
  private ranks: RankShapes[] = [];
  private readonly title = svg("text", { class: "ring-title", x: CENTER, y: CENTER - 4 });
  private readonly subtitle = svg("text", { class: "ring-subtitle", x: CENTER, y: CENTER + 18 });
  private arc = svg("circle", { class: "ring-read", cx: CENTER, cy: CENTER, r: INNER_RADIUS, pathLength: 1 });
  private worldSize = 0;
  private seats: readonly RingSeat[] = [];
  /** Of rank r: which share of the circle lies before it. */
  private places: number[] = [];
  private rotation: Rotation = "keyValue";
  private pending: RingTurn | undefined;
  private playing: { turn: RingTurn; startMs: number; stepMs: number } | undefined;
  private shownStep = -1;
  private frame = 0;

  /** A resting ring of ranks of one device: every rank holds its own block. */
  reset(worldSize: number): void {
    this.seat(plainSeats(worldSize));
    this.halt();
    this.setRead(0);
    this.write(this.describe(), "at rest");
    this.caption.textContent = "";
  }

  /** Who sits where. Others than before: the ring is drawn anew, and what it played is over. */
  seat(seats: readonly RingSeat[]): void {
    const arrangement = (list: readonly RingSeat[]) => list.map(({ id, rank }) => `${id}=${rank ?? "-"}`).join(" ");
    if (arrangement(seats) !== arrangement(this.seats)) {
      cancelAnimationFrame(this.frame);
      this.frame = 0;
      this.pending = this.playing = undefined;
      this.build(seats);
      this.rest();
      this.write(this.describe(), "");
    }
    this.seats = seats;
    seats.forEach(({ state, title }, index) => {
      const shape = this.root.querySelectorAll<SVGGElement>(".ring-node")[index]!;
      shape.dataset.seat = state;
      shape.querySelector("title")!.textContent = title;
    });
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
    this.describeRotation("keyValue");
    this.write(this.describe(), label);
    this.caption.textContent = "";
  }

  /** A run is interrupted: somebody has gone, and what they held is computed again. */
  interrupt(title: string, subtitle: string): void {
    this.halt();
    this.write(title, subtitle);
    this.caption.textContent = "";
  }

  private describe(): string {
    return this.worldSize === 1 ? "1 rank" : `${this.worldSize} ranks`;
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

  private build(seats: readonly RingSeat[]): void {
    const worldSize = seats.filter(({ rank }) => rank !== undefined).length;
    const count = Math.max(1, seats.length);
    this.worldSize = worldSize;
    this.places = [];
    const nodeSize = Math.min(23, ((2 * Math.PI * NODE_RADIUS) / count) * 0.42);
    const blockSize = Math.min(30, ((2 * Math.PI * BLOCK_RADIUS) / count) * 0.62);
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
    const nodes: SVGGElement[] = [];
    const ranks: RankShapes[] = [];
    seats.forEach(({ rank, state }, index) => {
      const share = index / count;
      const [x, y] = place(NODE_RADIUS, share);
      const node = svg(
        "g",
        { class: "ring-node", transform: `translate(${x} ${y})` },
        svg("title"),
        svg("circle", { r: nodeSize }),
      );
      nodes.push(node);
      const hasText = count <= 24;
      if (hasText)
        node.append(svg("text", { "font-size": Math.min(15, nodeSize * 0.9) }, GLYPHS[state] ?? String(rank ?? "…")));
      if (rank === undefined) return;
      this.places[rank] = share;
      const color = rankColor(rank, worldSize);
      node.style.setProperty("--c", color);
      const [bx, by] = place(BLOCK_RADIUS, share);
      const [sx, sy] = place(INNER_RADIUS, share);
      const link = svg("line", { class: "ring-link", x1: x, y1: y, x2: bx, y2: by });
      drawing.append(svg("line", { class: "ring-spoke", x1: sx, y1: sy, x2: x, y2: y }), link);
      const half = blockSize / 2;
      const block = svg(
        "g",
        { class: "ring-block" },
        svg("rect", { x: -half, y: -half, width: blockSize, height: blockSize, rx: blockSize * 0.24 }),
      );
      block.style.setProperty("--c", color);
      if (hasText) block.append(svg("text", { "font-size": Math.min(14, blockSize * 0.5) }, String(rank)));
      ranks[rank] = { node, block, link };
    });
    this.ranks = ranks;
    drawing.append(...nodes, ...ranks.map(({ block }) => block), this.title, this.subtitle);
    this.root.replaceChildren(html("div", { class: "ring-frame" }, drawing as unknown as Node));
    this.describeRotation("keyValue");
  }

  /** What travels in this pass, in the note and in the squares. */
  private describeRotation(rotation: Rotation): void {
    this.rotation = rotation;
    this.root.dataset.rotation = rotation;
    this.note.textContent = this.worldSize === 1 ? notes.one : notes[rotation](this.worldSize);
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
      const rotation = (this.playing.turn as Partial<PeerTurn>).rotation ?? "keyValue";
      if (rotation !== this.rotation) this.describeRotation(rotation);
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
      // In step s a block has moved s ranks on from its owner; it comes from the rank before. Queries move the same way.
      const from = step === 0 ? met.rank : met.rank - 1;
      const traveller = ownerOf(met);
      this.moveBlock(traveller, from + (step === 0 ? 0 : eased));
      const shapes = this.ranks[traveller];
      if (shapes) shapes.block.dataset.skipped = String(met.isSkipped);
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
    const before = Math.floor(rank);
    const at = (each: number) => this.places[((each % this.worldSize) + this.worldSize) % this.worldSize] ?? 0;
    // Forward around the circle, past whoever sits between two ranks without being one.
    const way = (((at(before + 1) - at(before)) % 1) + 1) % 1;
    const [x, y] = place(BLOCK_RADIUS, at(before) + way * (rank - before));
    shapes.block.setAttribute("transform", `translate(${x.toFixed(2)} ${y.toFixed(2)})`);
  }

  private mark(rank: number, state: "idle" | "meets" | "skipped"): void {
    const shapes = this.ranks[rank];
    if (!shapes) return;
    if (shapes.node.dataset.state === state) return;
    shapes.node.dataset.state = state;
    shapes.link.dataset.state = state;
  }

  private write(title: string, subtitle: string): void {
    this.title.textContent = title;
    this.subtitle.textContent = subtitle;
  }
}
