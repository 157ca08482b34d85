/** Gathers what a ring of peers tells of its passes, of all ranks and layers, into a few messages the page can draw. */
import type { PeerEvent } from "../../src/index.ts";
import type { PeerMessage, PeerTurn } from "../peers/peer-protocol.ts";
import { TurnAssembler } from "../peers/turns.ts";
import type { PrefillFacts } from "../protocol.ts";

/** Milliseconds between two messages. */
const PERIOD_MS = 90;
/** Turns in one message at most; the oldest are left out first. */
const MAX_TURNS = 200;

/** Posts at most one "peerProgress" per period. */
export class PeerBatch {
  /** Whether the run was begun by this page. */
  isOwn = false;
  private readonly assembler = new TurnAssembler();
  private prefill: PrefillFacts | undefined;
  private turns: PeerTurn[] = [];
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly post: (message: PeerMessage) => void) {}

  /** Other ranks from now on. */
  reset(worldSize: number): void {
    this.assembler.reset(worldSize);
  }

  /** Takes what is drawn of a run; @returns false for every other event. */
  take(event: PeerEvent): event is Extract<PeerEvent, { type: "prefill" | "steps" }> {
    if (event.type === "prefill") {
      const { type: _, ...prefill } = event;
      this.prefill = prefill;
    } else if (event.type === "steps") {
      this.turns.push(...this.assembler.add(event, performance.now()));
      if (this.turns.length > MAX_TURNS) this.turns.splice(0, this.turns.length - MAX_TURNS);
    } else return false;
    this.timer ??= setTimeout(() => this.flush(), PERIOD_MS);
    return true;
  }

  /** Posts what is gathered, now: before anything that must not overtake it. */
  flush(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (!this.prefill && this.turns.length === 0) return;
    this.post({ type: "peerProgress", isOwn: this.isOwn, prefill: this.prefill, turns: this.turns });
    this.prefill = undefined;
    this.turns = [];
  }
}
