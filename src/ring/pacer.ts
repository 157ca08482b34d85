/**
 * Submits a pass in pieces of moderate size, keeps the GPU supplied two pieces ahead, and tells how long each ring step
 * took. Waiting for the queue costs about a millisecond, so it is done once per piece, never once per dispatch; where
 * several small steps share a piece, they share its time in proportion to their work.
 */
import { untilAborted } from "./abort.ts";
import type { RingStep } from "./types.ts";

/** Time on the GPU that a piece should take: short enough to stop at once, long enough to make waiting for it cheap. */
const TARGET_MS = 25;
/** Multiply-adds of the first pieces, before any speed is known. */
const FIRST_WORK = 2 ** 25;
/** Different uniform blocks that wait at once are bounded (gpu/dispatch.ts); each dispatch may need one. */
const MOST_DISPATCHES = 512;
/** Pieces that are submitted and not known to be done. */
const MOST_AHEAD = 2;

/** What is remembered from pass to pass. */
export interface Pace {
  /** Multiply-adds that fill one piece. */
  workPerPiece: number;
  /** When a piece was last known to be done: a pass that begins while another ends is not charged for it. */
  lastDoneMs?: number;
}

/** A pace for a device of unknown speed. */
export const newPace = (): Pace => ({ workPerPiece: FIRST_WORK });

/** A step that is under way. */
interface OpenStep {
  event: RingStep;
  isClosed: boolean;
  /** Pieces that hold a part of it and are not done. */
  pieces: number;
}

interface Piece {
  shares: Map<OpenStep, number>;
  work: number;
  submittedMs: number;
  done: Promise<void>;
  doneMs: number | undefined;
}

/** Paces one pass; see the module's comment. */
export class Pacer {
  private openEncoder: GPUCommandEncoder | undefined;
  private shares = new Map<OpenStep, number>();
  private work = 0;
  private dispatches = 0;
  private readonly pieces: Piece[] = [];
  private readonly steps: OpenStep[] = [];

  constructor(
    private readonly device: GPUDevice,
    private readonly pace: Pace,
    private readonly signal: AbortSignal,
    private readonly label: string,
  ) {}

  /** Where the current piece's commands go. */
  get encoder(): GPUCommandEncoder {
    this.openEncoder ??= this.device.createCommandEncoder({ label: this.label });
    return this.openEncoder;
  }

  /** Begins a step. Its event is given out, complete, by {@link finished} or {@link drain}. */
  open<Step extends RingStep>(event: Step): Step {
    this.steps.push({ event, isClosed: false, pieces: 0 });
    return event;
  }

  /** `work` multiply-adds went into the current piece, for the step that is open. */
  add(work: number): void {
    const step = this.steps.at(-1);
    if (step && !step.isClosed) {
      if (!this.shares.has(step)) step.pieces++;
      this.shares.set(step, (this.shares.get(step) ?? 0) + work);
    }
    this.work += work;
    this.dispatches++;
    if (this.work >= this.pace.workPerPiece || this.dispatches >= MOST_DISPATCHES) this.submit();
  }

  /** The step opened last is encoded whole. */
  close(): void {
    this.steps.at(-1)!.isClosed = true;
  }

  /** True where the GPU has nothing to do, as far as is known. */
  get isIdle(): boolean {
    return this.pieces.every((piece) => piece.doneMs !== undefined);
  }

  /** When the GPU was last known to finish something. */
  get idleSinceMs(): number | undefined {
    return this.pieces.at(-1)?.doneMs ?? this.pace.lastDoneMs;
  }

  /** Submits what is encoded so far. Resolves when the GPU has done it. */
  submit(): Promise<void> {
    if (!this.openEncoder) return this.pieces.at(-1)?.done ?? Promise.resolve();
    const piece: Piece = {
      shares: this.shares,
      work: this.work,
      submittedMs: performance.now(),
      doneMs: undefined,
      done: Promise.resolve(),
    };
    this.device.queue.submit([this.openEncoder.finish()]);
    piece.done = this.device.queue.onSubmittedWorkDone().then(() => {
      piece.doneMs = performance.now();
    });
    // A lost device shows through the signal.
    piece.done.catch(() => {});
    this.pieces.push(piece);
    this.openEncoder = undefined;
    this.shares = new Map();
    this.work = 0;
    this.dispatches = 0;
    return piece.done;
  }

  /** Waits until at most two pieces are ahead of the GPU. */
  async keepUp(): Promise<void> {
    this.signal.throwIfAborted();
    while (this.pieces.length > MOST_AHEAD || this.pieces[0]?.doneMs !== undefined) await this.settle();
  }

  /** Gives out the steps that are complete, in order. */
  *finished(): Generator<RingStep> {
    while (this.steps[0]?.isClosed && this.steps[0].pieces === 0) yield this.steps.shift()!.event;
  }

  /** Submits the rest, waits for all of it, and gives out the steps that are left. */
  async *drain(): AsyncGenerator<RingStep> {
    this.submit();
    while (this.pieces.length > 0) {
      await this.settle();
      yield* this.finished();
    }
    yield* this.finished();
    this.signal.throwIfAborted();
  }

  /** Waits for the oldest piece and shares out its time. */
  private async settle(): Promise<void> {
    const piece = this.pieces[0]!;
    await untilAborted(piece.done, this.signal);
    this.pieces.shift();
    const beginMs = Math.max(piece.submittedMs, this.pace.lastDoneMs ?? 0);
    const spentMs = Math.max(0, piece.doneMs! - beginMs);
    this.pace.lastDoneMs = piece.doneMs;
    let atMs = beginMs;
    for (const [step, work] of piece.shares) {
      const shareMs = piece.work > 0 ? (spentMs * work) / piece.work : 0;
      if (step.event.computeMs === 0 && step.event.transferMs === 0) step.event.startMs = atMs;
      step.event.computeMs += shareMs;
      step.pieces--;
      atMs += shareMs;
    }
    // Small pieces say more about the cost of submitting than about the GPU's speed.
    if (spentMs > 1 && piece.work >= this.pace.workPerPiece / 2)
      this.pace.workPerPiece = Math.max(
        FIRST_WORK / 8,
        (this.pace.workPerPiece + (TARGET_MS * piece.work) / spentMs) / 2,
      );
  }
}
