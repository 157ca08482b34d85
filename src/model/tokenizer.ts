/**
 * The tokenizer of a model: tokenizer.json through `@huggingface/tokenizers`, with checks before it and a few things it
 * leaves out after it. The library is imported only here and only when a model is loaded.
 */
import type { Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";
import { ModelFormatError, OptionError, UnsupportedModelError } from "../errors.ts";
import { describeValue } from "../shape.ts";
import { describeJson, Fields, isJsonObject, type JsonObject, parseJsonObject } from "./json.ts";
import { readOptional } from "./read-file.ts";
import type { ModelFiles } from "./types.ts";

/** A chat template in Jinja, with what it may print. */
export interface ChatTemplate {
  template: string;
  /** "<s>" and the like; empty where the tokenizer has none. */
  bosToken: string;
  eosToken: string;
  /** Special tokens by name (bos_token, eos_token, pad_token, unk_token), as templates use them. */
  specialTokens: Readonly<Record<string, string>>;
}

/** Text to ids and back. */
export interface Tokenizer {
  /** Ids that `decode` takes: those of tokenizer.json, and of the model's embedding where that was given and has more. */
  readonly vocabSize: number;
  readonly bosTokenId?: number;
  /** The tokenizer's own end-of-sequence id. (generation_config.json may name more: see ModelConfig.eosTokenIds.) */
  readonly eosTokenIds: readonly number[];
  readonly chatTemplate?: ChatTemplate;
  /**
   * @param options addBos: put BOS in front as this tokenizer does (default true; some never do, and a text that begins
   *   with BOS gets no second one). Other special tokens are never added.
   */
  encode(text: string, options?: { addBos?: boolean }): number[];
  /**
   * @param options keepSpecial: show special tokens ("<s>", "<|im_end|>"). Default false: they are left out.
   * @throws {OptionError} for ids outside of the vocabulary, naming id and size.
   */
  decode(ids: readonly number[], options?: { keepSpecial?: boolean }): string;
}

/** What {@link loadTokenizer} takes. */
export interface LoadTokenizerOptions {
  signal?: AbortSignal;
  /** Rows of the model's embedding, where that is padded beyond the tokenizer: such ids decode to nothing. */
  vocabSize?: number;
}

/** Larger than any vocabulary of today; keeps a lying id from filling the memory. */
const MAX_VOCAB = 2 ** 24;

const WHERE = "tokenizer.json";

function fail(expected: string, got: unknown): never {
  throw new ModelFormatError(`${WHERE}: expected ${expected}, got ${describeJson(got)}`);
}

const isId = (value: unknown): value is number =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) < MAX_VOCAB;

/** Vocabulary of a BPE model: every token one id, every merge of known tokens. Returns token by id. */
function checkBpe(model: JsonObject): Map<number, string> {
  if (!isJsonObject(model.vocab)) return fail("model.vocab to be an object", model.vocab);
  const vocab = new Map(Object.entries(model.vocab));
  const tokens = new Map<number, string>();
  for (const [token, id] of vocab) {
    if (!isId(id)) return fail(`model.vocab[${JSON.stringify(token)}] to be an id below ${MAX_VOCAB}`, id);
    const other = tokens.get(id);
    if (other !== undefined) return fail(`every id once, and ${id} is ${JSON.stringify(other)}`, token);
    tokens.set(id, token);
  }
  if (!Array.isArray(model.merges)) return fail("model.merges to be a list", model.merges);
  // Only models without a prefix for continued words (all of the LLaMA family) merge by plain concatenation.
  const isPlain = !model.continuing_subword_prefix && !model.end_of_word_suffix;
  for (const merge of model.merges) {
    const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    const isOfOneForm = typeof merge === typeof model.merges[0];
    if (!isOfOneForm || !Array.isArray(pair) || pair.length !== 2 || pair.some((part) => typeof part !== "string"))
      return fail("every merge to be a pair of tokens", merge);
    const [left, right] = pair as [string, string];
    for (const token of isPlain ? [left, right, left + right] : [])
      if (!vocab.has(token)) return fail("merges of tokens in the vocabulary", token);
  }
  return tokens;
}

/** Vocabulary of a unigram model: a list of [token, score]. */
function checkUnigram(model: JsonObject): Map<number, string> {
  const { vocab } = model;
  if (!Array.isArray(vocab) || vocab.length >= MAX_VOCAB) return fail("model.vocab to be a list", vocab);
  for (const entry of vocab)
    if (!Array.isArray(entry) || typeof entry[0] !== "string" || typeof entry[1] !== "number")
      return fail("every entry of model.vocab to be [token, score]", entry);
  return new Map(vocab.map((entry, id) => [id, entry[0]]));
}

interface AddedTokens {
  /** Token by id. */
  tokens: Map<number, string>;
  specialIds: Set<number>;
}

function checkAddedTokens(json: JsonObject): AddedTokens {
  const list = json.added_tokens ?? [];
  if (!Array.isArray(list)) return fail("added_tokens to be a list", list);
  const tokens = new Map<number, string>();
  const specialIds = new Set<number>();
  for (const entry of list) {
    if (!isJsonObject(entry) || !isId(entry.id) || typeof entry.content !== "string" || entry.content === "")
      return fail("every added token to have an id and a content", entry);
    tokens.set(entry.id, entry.content);
    if (entry.special === true) specialIds.add(entry.id);
  }
  return { tokens, specialIds };
}

/**
 * Where the vocabulary has no token in which a "▁" (a word's beginning) follows anything else, no merge crosses a word's
 * beginning, and words can be merged one by one: the ids are the same, and a book takes seconds instead of minutes.
 */
function splitsAtWords(model: JsonObject, tokens: Map<number, string>): boolean {
  if (model.type !== "BPE" || model.ignore_merges === true) return false;
  for (const token of tokens.values()) if (/[^▁]▁/.test(token)) return false;
  return true;
}

const splitAt = (regex: string) => ({ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false });

/** The pre-tokenizer as the file means it, and with words apart where that changes nothing but the speed. */
function completePreTokenizer(part: unknown, isSplittable: boolean): unknown {
  const words = isSplittable ? [splitAt("▁*[^▁]+|▁+")] : [];
  if (part === undefined || part === null) return words[0] ?? null;
  if (!isJsonObject(part) || part.type !== "Metaspace" || (part.replacement ?? "▁") !== "▁") return part;
  // The library's Metaspace never splits; the reference's does, at every "▁", unless it is told not to.
  const splits = part.split === false ? words : [splitAt("▁[^▁]*|[^▁]+")];
  return { type: "Sequence", pretokenizers: [part, ...splits] };
}

/** Deepest nesting of normalizers, pre-tokenizers and decoders; real ones have 3 or 4 levels. */
const MAX_DEPTH = 32;

/** The library ignores a pattern that it cannot read; the text would be split otherwise than the file says. */
function checkPatterns(part: unknown, depth = 0): void {
  if (typeof part !== "object" || part === null) return;
  if (depth > MAX_DEPTH) fail(`at most ${MAX_DEPTH} levels in normalizer, pre_tokenizer and decoder`, part);
  const { type, pattern } = part as JsonObject;
  if (type === "Split" || type === "Replace") {
    const text = isJsonObject(pattern) ? (pattern.Regex ?? pattern.String) : undefined;
    if (typeof text !== "string") fail(`pattern of a ${type} to be a Regex or a String`, pattern);
  }
  for (const child of Object.values(part)) checkPatterns(child, depth + 1);
}

/** "<s>" out of `"bos_token": "<s>"` or `"bos_token": {"content": "<s>", ...}`. */
function specialToken(config: Fields, name: string): string | undefined {
  const value = config.get(name);
  if (value === undefined || typeof value === "string") return value;
  if (isJsonObject(value) && typeof value.content === "string") return value.content;
  return config.refuse(name, "a token");
}

/** The special tokens that the post-processor's template puts before the text, as ids. */
function templatePrefix(json: JsonObject, idOf: (token: string) => number | undefined): number[] {
  const processors = isJsonObject(json.post_processor)
    ? [json.post_processor, ...(Array.isArray(json.post_processor.processors) ? json.post_processor.processors : [])]
    : [];
  const template = processors.find((processor) => isJsonObject(processor) && processor.type === "TemplateProcessing");
  const prefix: number[] = [];
  for (const item of Array.isArray(template?.single) ? template.single : []) {
    const special = isJsonObject(item) ? item.SpecialToken : undefined;
    if (!isJsonObject(special)) break;
    const id = typeof special.id === "string" ? idOf(special.id) : undefined;
    if (id === undefined) return fail("post_processor's special tokens to be in the vocabulary", special.id);
    prefix.push(id);
  }
  return prefix;
}

/** `chat_template` as text, or the one named "default" out of a list. */
function pickTemplate(config: Fields): string | undefined {
  const value = config.get("chat_template");
  if (value === undefined || typeof value === "string") return value;
  const named = Array.isArray(value)
    ? value.filter(
        (entry) => isJsonObject(entry) && typeof entry.name === "string" && typeof entry.template === "string",
      )
    : [];
  const entry = named.find(({ name }) => name === "default") ?? (named.length === 1 ? named[0] : undefined);
  return entry?.template ?? config.refuse("chat_template", 'a template, or a list of named ones with one "default"');
}

/** Bytes that come out of a byte token keep their BOM: the library's own decoder swallows U+FEFF. */
function keepByteOrderMarks(decoder: unknown): void {
  const nested = (decoder as { decoders?: unknown[] } | null)?.decoders ?? [];
  for (const part of [decoder, ...nested]) {
    const holder = part as { text_decoder?: TextDecoder } | null;
    if (holder?.text_decoder) holder.text_decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  }
}

/** Builds the library's tokenizer; whatever it cannot make sense of is the file's fault. */
async function build(json: JsonObject, config: JsonObject, anyId: number): Promise<LibraryTokenizer> {
  const { Tokenizer: Library } = await import("@huggingface/tokenizers");
  try {
    const library = new Library(json, config);
    keepByteOrderMarks(library.decoder);
    // Some nonsense shows only in use.
    library.encode("a b", { add_special_tokens: false });
    library.decode([anyId]);
    return library;
  } catch (cause) {
    throw new ModelFormatError(`${WHERE}: expected a tokenizer, got "${(cause as Error).message}"`, { cause });
  }
}

/**
 * Reads tokenizer.json, and tokenizer_config.json and chat_template.jinja where they are.
 * @throws {ModelFormatError} for a broken file. @throws {UnsupportedModelError} for a kind of tokenizer that is not supported.
 * @throws {ModelSourceError} where a file cannot be read. Abort rejects with `signal.reason`.
 */
export async function loadTokenizer(files: ModelFiles, options: LoadTokenizerOptions = {}): Promise<Tokenizer> {
  const { signal } = options;
  const bytes = await readOptional(files, WHERE, signal);
  if (!bytes) {
    if ((await files.size("tokenizer.model", signal)) !== undefined)
      throw new UnsupportedModelError(`${files.name}: tokenizer.model alone is not supported: expected ${WHERE}`);
    throw new ModelFormatError(`${files.name}: expected a file named ${WHERE}, got none`);
  }
  const configBytes = await readOptional(files, "tokenizer_config.json", signal);
  const templateBytes = await readOptional(files, "chat_template.jinja", signal);
  const config = configBytes ? parseJsonObject("tokenizer_config.json", configBytes) : {};
  const template = templateBytes ? new TextDecoder().decode(templateBytes) : undefined;
  return createTokenizer(parseJsonObject(WHERE, bytes), config, { ...options, template });
}

/**
 * A tokenizer from its files' contents.
 * @param json tokenizer.json, parsed. @param configJson tokenizer_config.json, parsed; `{}` where there is none.
 * @param options template: text of chat_template.jinja, which goes before the one in tokenizer_config.json.
 * @throws {ModelFormatError} @throws {UnsupportedModelError}
 */
export async function createTokenizer(
  json: JsonObject,
  configJson: JsonObject = {},
  options: { vocabSize?: number; template?: string } = {},
): Promise<Tokenizer> {
  const config = new Fields("tokenizer_config.json", configJson);
  const { model } = json;
  if (!isJsonObject(model)) return fail("model to be an object", model);
  if (model.type !== "BPE" && model.type !== "Unigram")
    throw new UnsupportedModelError(
      `${WHERE}: tokenizer model ${describeJson(model.type)} is not supported: expected BPE or Unigram`,
    );
  const baseTokens = model.type === "BPE" ? checkBpe(model) : checkUnigram(model);
  const added = checkAddedTokens(json);
  const tokens = new Map([...baseTokens, ...added.tokens]);
  if (tokens.size === 0) return fail("a vocabulary", "an empty one");
  const ids = new Map([...tokens].map(([id, token]) => [token, id]));
  let ownSize = 0;
  for (const id of tokens.keys()) ownSize = Math.max(ownSize, id + 1);
  const vocabSize = Math.max(ownSize, options.vocabSize ?? 0);

  const specialTokens: Record<string, string> = {};
  for (const name of ["bos_token", "eos_token", "pad_token", "unk_token"]) {
    const token = specialToken(config, name);
    if (token === undefined) continue;
    specialTokens[name] = token;
    const id = ids.get(token);
    if (id !== undefined && name !== "unk_token") added.specialIds.add(id);
  }
  const { bos_token: bosToken = "", eos_token: eosToken = "" } = specialTokens;
  const prefix = templatePrefix(json, (token) => ids.get(token));
  const bosTokenId = ids.get(bosToken) ?? prefix[0];
  const eosTokenId = ids.get(eosToken);
  // tokenizer_config.json's switch goes before the template of tokenizer.json, as in the reference implementation.
  const addsBos = bosTokenId !== undefined && config.boolean("add_bos_token", prefix.length > 0);

  for (const part of [json.normalizer, json.pre_tokenizer, json.decoder]) checkPatterns(part);
  // Special tokens are added here, not by the library's post-processor.
  const complete = {
    ...json,
    added_tokens: json.added_tokens ?? [],
    normalizer: json.normalizer ?? null,
    pre_tokenizer: completePreTokenizer(json.pre_tokenizer, splitsAtWords(model, baseTokens)),
    post_processor: null,
    decoder: json.decoder ?? null,
  };
  const library = await build(
    complete,
    { ...configJson, clean_up_tokenization_spaces: false },
    ids.get(tokens.values().next().value!)!,
  );
  const template = options.template ?? pickTemplate(config);

  return {
    vocabSize,
    ...(bosTokenId === undefined ? {} : { bosTokenId }),
    eosTokenIds: eosTokenId === undefined ? [] : [eosTokenId],
    ...(template === undefined ? {} : { chatTemplate: { template, bosToken, eosToken, specialTokens } }),
    encode(text, { addBos = true } = {}) {
      if (typeof text !== "string") throw new OptionError(`encode: expected text, got ${describeValue(text)}`);
      const encoded = text === "" ? [] : library.encode(text, { add_special_tokens: false }).ids;
      // Without an unknown token the library leaves gaps for what it cannot spell; so does the reference.
      const known = encoded.filter((id) => id !== undefined);
      return addBos && addsBos && known[0] !== bosTokenId ? [bosTokenId, ...known] : known;
    },
    decode(list, { keepSpecial = false } = {}) {
      for (const id of list)
        if (!Number.isInteger(id) || id < 0 || id >= vocabSize)
          throw new OptionError(
            `decode: expected ids from 0 to ${vocabSize - 1} (vocabulary of ${vocabSize}), got ${describeValue(id)}`,
          );
      const shown = list.filter((id) => tokens.has(id) && (keepSpecial || !added.specialIds.has(id)));
      return shown.length === 0 ? "" : library.decode(shown);
    },
  };
}
