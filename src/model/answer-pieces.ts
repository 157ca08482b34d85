/** Ids of an answer to the pieces that a caller sees: no piece ends within a character that the next token may complete. */
import { createTextStream, type TextStream } from "./text-stream.ts";
import type { Tokenizer } from "./tokenizer.ts";
import type { GeneratedPiece } from "./types.ts";

/** See {@link answerPieces}. */
export class AnswerPieces {
  /** In the middle of a character a piece waits for the next token, which may be a stop id. */
  private held: GeneratedPiece | undefined;

  constructor(private readonly text: TextStream | undefined) {}

  /** The pieces that are complete with this id; with the last one of an answer, all of them. */
  push(tokenId: number, isLast: boolean): GeneratedPiece[] {
    const pieces = this.held ? [this.held] : [];
    this.held = undefined;
    const piece = { tokenId, text: this.text?.push(tokenId) ?? "" };
    if (isLast) pieces.push({ ...piece, text: piece.text + (this.text?.end() ?? "") });
    else if (this.text?.hasRest) this.held = piece;
    else pieces.push(piece);
    return pieces;
  }

  /** A stop id came: what was held back. Bytes that never became a character are shown as what they are. */
  stop(): GeneratedPiece[] {
    const { held } = this;
    this.held = undefined;
    return held ? [{ ...held, text: held.text + this.text!.end() }] : [];
  }
}

/**
 * The pieces of the answer to a prompt. An answer to a conversation begins anew; a continuation of text keeps the space
 * between.
 * @param tokenizer Absent (presets): pieces have no text.
 * @param ids The prompt's. @param isChat The prompt was a conversation.
 */
export const answerPieces = (tokenizer: Tokenizer | undefined, ids: readonly number[], isChat: boolean): AnswerPieces =>
  new AnswerPieces(tokenizer && createTextStream(tokenizer, isChat ? [] : ids));
