/** What a model's small files say of it: config and tokenizer, read before a byte of weights. */
import { type ModelConfig, parseModelConfig } from "./config.ts";
import { type JsonObject, parseJsonObject } from "./json.ts";
import { readOptional } from "./read-file.ts";
import { loadTokenizer, type Tokenizer } from "./tokenizer.ts";
import type { LoadProgress, ModelFiles } from "./types.ts";

/** A model without its weights. */
export interface ModelDescription {
  name: string;
  /** config.json as it came. */
  configJson: JsonObject;
  config: ModelConfig;
  tokenizer: Tokenizer;
}

/**
 * Reads config.json, generation_config.json where it is, and the tokenizer.
 * @param options report: told before each part is read.
 * @throws {UnsupportedModelError} naming what is not supported. @throws {ModelFormatError} for a broken file.
 * @throws {ModelSourceError} where a file cannot be read whole. Abort rejects with `signal.reason`.
 */
export async function readDescription(
  files: ModelFiles,
  options: { signal?: AbortSignal; report?: (phase: LoadProgress["phase"], message: string) => void } = {},
): Promise<ModelDescription> {
  const { signal, report } = options;
  report?.("config", "Reading config.json");
  const configJson = parseJsonObject("config.json", await files.read("config.json", undefined, signal));
  const generationBytes = await readOptional(files, "generation_config.json", signal);
  const generationJson = generationBytes && parseJsonObject("generation_config.json", generationBytes);
  const config = parseModelConfig(configJson, generationJson);
  report?.("tokenizer", "Reading the tokenizer");
  const tokenizer = await loadTokenizer(files, { signal, vocabSize: config.vocabSize });
  return { name: files.name, configJson, config, tokenizer };
}
