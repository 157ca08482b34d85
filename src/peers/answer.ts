/**
 * A run as every peer has it: the prompt's ids and the answer's, its options, and the pieces of text that come of them. Whoever
 * leads picks the ids; everyone gives out the same pieces.
 */
import { PeerError } from "../errors.ts";
import { type AnswerPieces, answerPieces } from "../model/answer-pieces.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import type { GeneratedPiece } from "../model/types.ts";
import type { RunInfo } from "./messages.ts";

/** How a run ended. */
export type RunEnd =
  | { stopReason: "maxNewTokens" | "stopId" | "aborted"; message: string }
  | { stopReason: "failed"; message: string; error: unknown };

/** See the module's comment. */
export class Answer {
  /** Prompt and answer; a stop id is the last of them and no part of the answer. */
  readonly ids: number[] = [];
  /** What has been given out. */
  readonly pieces: GeneratedPiece[] = [];
  end: RunEnd | undefined;
  private text: AnswerPieces | undefined;
  /** Ids of {@link ids} that have become pieces. */
  private given: number;
  private readonly stopIds: ReadonlySet<number>;
  private waiting: (() => void)[] = [];

  constructor(
    readonly info: RunInfo,
    /** Asked when the first piece is due: a peer may get a run before it has the model. */
    private readonly tokenizer: () => Tokenizer | undefined,
    private readonly onPiece: (piece: GeneratedPiece) => void,
  ) {
    this.given = info.promptLength;
    this.stopIds = new Set(info.stopIds);
  }

  get hasPrompt(): boolean {
    return this.ids.length >= this.info.promptLength;
  }

  /** How the ids say that the answer is complete; undefined while it is not. */
  get completion(): "maxNewTokens" | "stopId" | undefined {
    const { ids, info } = this;
    if (!this.hasPrompt) return undefined;
    if (ids.length > info.promptLength && this.stopIds.has(ids[ids.length - 1]!)) return "stopId";
    return ids.length - info.promptLength >= info.maxNewTokens ? "maxNewTokens" : undefined;
  }

  /**
   * Takes ids from position `start` on; those that are known already are left as they are.
   * @returns false where they do not follow: something before them is missing.
   */
  extend(start: number, ids: readonly number[]): boolean {
    if (start > this.ids.length) return false;
    for (let i = this.ids.length - start; i < ids.length; i++) {
      if (this.completion) break;
      this.ids.push(ids[i]!);
      this.give();
    }
    return true;
  }

  /** Forgets ids from `length` on. Pieces that were given out are not given out again. */
  truncate(length: number): void {
    if (this.ids.length > length) this.ids.length = length;
  }

  /** Nothing more will come. */
  finish(end: RunEnd): void {
    if (this.end) return;
    this.end = end;
    this.notify();
  }

  /** Pieces from the first on, as they come. @throws the failure, where the run failed. */
  async *iterate(): AsyncGenerator<GeneratedPiece, void, undefined> {
    for (let index = 0; ; ) {
      if (index < this.pieces.length) yield this.pieces[index++]!;
      else if (!this.end) await new Promise<void>((resolve) => this.waiting.push(resolve));
      else if (this.end.stopReason === "failed") throw this.end.error;
      else return;
    }
  }

  private give(): void {
    const { ids, info } = this;
    if (!this.hasPrompt || ids.length <= this.given) return;
    this.text ??= answerPieces(this.tokenizer(), ids.slice(0, info.promptLength), !info.isContinuation);
    for (; this.given < ids.length; this.given++) {
      const id = ids[this.given]!;
      const isLast = this.given + 1 - info.promptLength >= info.maxNewTokens;
      for (const piece of this.stopIds.has(id) ? this.text.stop() : this.text.push(id, isLast)) {
        this.pieces.push(piece);
        this.onPiece(piece);
      }
    }
    this.notify();
  }

  private notify(): void {
    const { waiting } = this;
    this.waiting = [];
    for (const resolve of waiting) resolve();
  }
}

/** How a run ends that those who lead the ring do not know. */
export const lostRun = (): RunEnd => ({
  stopReason: "failed",
  message: "The run is no longer known to those who lead the ring.",
  error: new PeerError("generate: expected the ring to carry the run on, got a leader that does not know it"),
});
