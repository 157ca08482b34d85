/**
 * From what single ranks tell of their ring steps to whole turns that can be drawn on one clock. Every machine has a clock
 * of its own; a rank's is set by the message that took least: no clock can be further behind than its quickest message says.
 */
import type { PeerEvent, RankStep, Rotation } from "../../src/index.ts";
import type { PeerTurn } from "./peer-protocol.ts";

type Steps = Extract<PeerEvent, { type: "steps" }>;

interface OpenTurn {
  layer: number;
  layerCount: number;
  rotation: Rotation;
  byRank: Map<number, RankStep[]>;
}

/** Gathers the steps of one layer over all ranks. A turn that some rank never tells of is handed on without it. */
export class TurnAssembler {
  private open: OpenTurn | undefined;
  private offsets = new Map<number, number>();
  private worldSize = 1;

  /** Other ranks from now on: what is unfinished is forgotten, and the clocks are set anew. */
  reset(worldSize: number): void {
    this.worldSize = worldSize;
    this.open = undefined;
    this.offsets.clear();
  }

  /** @param arrivalMs when the event came, on this clock @returns the turns that are complete with it */
  add(event: Steps, arrivalMs: number): PeerTurn[] {
    const { rank, layer, layerCount, steps } = event;
    const done: PeerTurn[] = [];
    if (steps.length === 0) return done;
    const shifted = this.onOneClock(rank, steps, arrivalMs);
    if (this.open && (this.open.layer !== layer || this.open.byRank.has(rank))) done.push(this.close());
    this.open ??= { layer, layerCount, rotation: steps[0]!.rotation, byRank: new Map() };
    this.open.byRank.set(rank, shifted);
    if (this.open.byRank.size >= this.worldSize) done.push(this.close());
    return done;
  }

  private onOneClock(rank: number, steps: readonly RankStep[], arrivalMs: number): RankStep[] {
    const endMs = Math.max(...steps.map((step) => step.startMs + step.waitMs + step.computeMs));
    const offset = Math.min(arrivalMs - endMs, this.offsets.get(rank) ?? Number.POSITIVE_INFINITY);
    this.offsets.set(rank, offset);
    return steps.map((step) => ({ ...step, rank, startMs: step.startMs + offset }));
  }

  private close(): PeerTurn {
    const { layer, layerCount, rotation, byRank } = this.open!;
    this.open = undefined;
    const steps = [...byRank.entries()].sort(([a], [b]) => a - b).flatMap(([, ofRank]) => ofRank);
    return { layer, layerCount, rotation, steps };
  }
}
