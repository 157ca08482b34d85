/** Ids to text as they come: pieces that never cut a character in two, and that together are what decoding all at once gives. */
import type { Tokenizer } from "./tokenizer.ts";

/** What a truncated UTF-8 sequence decodes to. */
const REPLACEMENT = "\uFFFD";

/** Text out of ids, one at a time. */
export interface TextStream {
  /** The text that this id completes: empty while a character is incomplete. @throws {OptionError} for an id outside. */
  push(id: number): string;
  /** A character is incomplete: {@link end} would have something to show. */
  readonly hasRest: boolean;
  /** What is left: U+FFFD where the ids end within a character. Nothing may be pushed after it. */
  end(): string;
}

/**
 * A stream whose pieces join to `tokenizer.decode(all ids)`.
 *
 * Decoding is local but not per token: a character may be spread over several tokens (byte fallback, byte-level BPE), and a
 * leading space is dropped at the text's start only. So what is decoded is a window: the tokens of the last complete
 * text as context, and those since. A truncated character shows as exactly one U+FFFD at the end, which is held back.
 * @param context Ids before the first, e.g. the prompt's, where the text goes on in the middle of a sentence: then the first
 *   piece keeps its leading space. Their text is not repeated.
 */
export function createTextStream(tokenizer: Tokenizer, context: readonly number[] = []): TextStream {
  // A window begins with text, and not within a character; of that at most 3 tokens can come before its last one.
  let shown: readonly number[] = [];
  for (let count = 1; count <= Math.min(8, context.length); count++) {
    shown = context.slice(-count);
    const start = tokenizer.decode(shown);
    if (start !== "" && !start.startsWith(REPLACEMENT)) break;
  }
  let shownText = tokenizer.decode(shown);
  let pending: number[] = [];
  /** Characters of the window's text that are out already. */
  let emitted = shownText.length;
  let hasRest = false;

  const text = () => tokenizer.decode([...shown, ...pending]);
  return {
    get hasRest() {
      return hasRest;
    },
    push(id) {
      // Special tokens are no text, not even between the bytes of a character.
      if (tokenizer.decode([id]) === "" && tokenizer.decode([id], { keepSpecial: true }) !== "") return "";
      pending.push(id);
      const all = text();
      const isWhole = !all.endsWith(REPLACEMENT);
      const stable = isWhole ? all : all.slice(0, -1);
      const piece = stable.slice(emitted);
      emitted = Math.max(emitted, stable.length);
      hasRest = all.length > emitted;
      if (isWhole && all.length > shownText.length) {
        // The window moves on, unless the new tokens alone show nothing (a lone space is dropped at a start).
        const alone = tokenizer.decode(pending);
        shown = alone === "" ? [...shown, ...pending] : pending;
        shownText = alone === "" ? all : alone;
        emitted = shownText.length;
        pending = [];
      }
      return piece;
    },
    end() {
      const rest = text().slice(emitted);
      pending = [];
      shown = [];
      shownText = "";
      emitted = 0;
      hasRest = false;
      return rest;
    },
  };
}
