/**
 * Writes models/default/: the model that Ringwise ships with. It is constructed, not trained: every weight below is
 * computed from the design, and what it does can be read off. It knows no language and no facts. Given a text over
 * bytes it finds the place where the last 16 bytes stood before, at any distance, and goes on as the text went on
 * there.
 *
 *     npm run build:model            writes config.json, model.safetensors, tokenizer.json, tokenizer_config.json
 *     node scripts/run.mjs scripts/build-model.ts FOLDER
 *
 * Every run on every machine writes the same bytes (test/node/default-model.test.ts): numbers come from a seeded
 * generator (mulberry32) through + - * / and sqrt, which IEEE 754 rounds one way only; the few cosines are rounded to
 * half precision, and one that stood too near the middle of two halves would be refused. All weights are halves, and
 * all scales are computed with the rounded numbers.
 *
 * ## The idea
 *
 * An induction head (Olsson et al. 2022, In-context Learning and Induction Heads) with a long memory. Each token
 * carries in its residual stream the codes of the 16 bytes before it, each turned by its own fixed map R_k into its own
 * section; a global head matches "the 16 bytes that end here" of the query against "the 16 bytes before here" of every
 * key, and copies the byte that stood there. The maps R_k put the codes into sections at right angles to each other
 * (slot k, 3 channels), not into random, overlapping directions. That is what makes the guarantee exact: with unit
 * codes c, the score of a place is sum over k of c(x_k) . c(y_k), at most 16, and 16 only where all 16 bytes agree
 * (Cauchy-Schwarz). With random overlapping maps in as many dimensions the sum has cross terms of +-2 matches, and a
 * near miss can beat the match.
 *
 * ## The residual stream, 128 channels
 *
 *     0..63    copy code of the token (signs, length 1/16; at the end, of the byte to come, length up to 12)
 *     64..114  slots 0..16, 3 channels each: match code of the byte k places back (slot 0: the byte itself)
 *     115      128 in every token: makes RMSNorm the same number for every token (the codes add 18 to its square,
 *              16384), so that the norm's weights can undo it; constant queries and keys read this channel
 *     116      1 in BOS only
 *     117..127 zero
 *
 * The match codes are 256 points on the sphere that push each other apart: 1 - cos of the closest two is 0.0214, of the
 * closest two of " a..z0..9.,-\n" 0.0916. Their squared lengths are 1 within 5e-5 after rounding. The copy codes are 64
 * signs, any two at a cosine of at most 1/4 in size.
 *
 * ## Layers 0 to 2: fetching the bytes before (sliding window of 16)
 *
 * Every key is the same constant vector, and so is every query of a head, turned back by `offset` tokens: on rotary
 * pair i their product at distance d is 512 cos(f_i (d - offset)) logits, summed over the six fastest pairs (f = 1,
 * 0.070, 0.0049, ... radians per token). The head's own offset wins by at least 64 logits inside of the window and by
 * 52 over any distance up to a million, so the layers would work with full attention too, and the window only saves
 * time. Values are slots 0.. of the token found, and the output projection writes them to slots `offset`... . Known
 * slots double (or treble) at each layer, so three layers of two heads do:
 *
 *     layer 0: slot 0    from 1 and 2 back   -> slots 1, 2
 *     layer 1: slots 0-2 from 3 and 6 back   -> slots 3-5, 6-8
 *     layer 2: slots 0-3 from 9 and 13 back  -> slots 9-12, 13-16
 *
 * The first 16 tokens of a text have no token that far back: some slots then hold another byte's code, or nothing. Such
 * a key is one more wrong place; it needs all 16 codes to agree to win, like any other.
 *
 * ## Layer 3: the match (full attention)
 *
 * Rotary frequencies are 1e37^(-i/32). Pairs 8 to 31 turn by less than 6e-4 radians over a million tokens, so their 48
 * dimensions compare codes at any distance. One key head: slots 1..16. Two query heads:
 *
 *     head 0: slots 0..15. 2048 logits per byte that agrees (128 * 128 / 8): an exact match scores 32768 and beats a
 *             place where only one byte differs by at least 2048 * 0.0214 = 43 logits. BOS scores 24 less than an exact
 *             match (pair 7, 8e-9 radians per token): where no place matches exactly, this head rests on BOS, whose value
 *             is next to nothing.
 *     head 1: slots 0..7, without BOS's way out: the place (or the even mix of places) where the last 8 bytes agree
 *             best. It decides where head 0 finds nothing, with half of its weight.
 *
 * Values are copy codes, added to the copy section with weights 4 and 2 against the 1/16 of the token itself.
 *
 * ## Layer 4: an echo (sliding window)
 *
 * Every token attends to itself (offset 0) and adds its copy section to itself once more. The answer would be the same
 * without it. It stands here because `generate` computes the last layer for the last token of a prompt only (no other is
 * asked for its logits): were the match the last layer, the ring would have next to nothing to do, and the model could
 * not show what prefill costs. With a layer after it, every token's match is needed, as in any trained model.
 *
 * ## Output
 *
 * The head is the embedding, tied. The final norm's weight is zero outside of the copy section, so a logit is 16 times
 * the cosine-weighted sum: an exact match stands at 112 to 192 and no other byte comes nearer than 48. Greedy decoding
 * therefore copies exactly, and so does sampling at temperature 1. BOS carries a sixteenth of the code of </s>: an
 * empty prompt is answered by nothing. A newline ends an answer (`eos_token_id` is [257, 10]), so that a sentence
 * copied out of a text stops at its end.
 *
 * The MLPs are zero (16 wide): copying needs none. They are there because a LLaMA has them.
 *
 * ## Measured (float32, 100,000 bytes of War and Peace, 2,895 places drawn at random whose 16 bytes occur once)
 *
 *     exact match                                     32769.7 to 32771.0 logits
 *     above the best other place                      207 at least, 9357 in the median
 *     above all other places together (log-sum-exp)   207 at least
 *     above BOS                                       21.4 at least
 *     the same with the match a million tokens back   207 and 22.7 at least; the exact score moves by 0.008
 *     offset heads: weight off the right token        below 1e-7
 *     layers 0-2 with the window taken away           the same residual streams, bit for bit, over 3,000 tokens
 *     needles at 11 depths of 16K, 32K and 64K tokens each byte of each answer first, by 141 logits at least
 *
 * Cost: 5 layers, one of them full with 2 heads of 64: 68 GFLOP of attention for a prompt of 16,384 tokens, 1.1 TFLOP
 * for 65,536. K/V take 2.5 KiB per token in f32.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { buildModelFiles } from "./default-model/files.ts";

const folder = resolve(process.argv[2] ?? "models/default");
mkdirSync(folder, { recursive: true });
let byteLength = 0;
for (const [name, bytes] of buildModelFiles()) {
  writeFileSync(join(folder, name), bytes);
  console.log(`${join(folder, name)}: ${bytes.length} bytes`);
  byteLength += bytes.length;
}
console.log(`${byteLength} bytes together`);
