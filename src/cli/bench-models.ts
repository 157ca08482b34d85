/** The model cases of `bench --against`: which there are, where their weights come from, and one of them run. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type BenchModel, benchPrompt, MODEL_AGAINST_CASES } from "../../bench/against/model-cases.ts";
import { type PeakProbes, runAgainstModelCase } from "../../bench/against/model-run.ts";
import type { AgainstOptions, Entrant } from "../../bench/against/run.ts";
import { fileNumbers, type ModelNumbers, presetNumbers } from "../../bench/onnx/model-numbers.ts";
import { oracleLogits } from "../../bench/onnx/model-oracle.ts";
import type { BenchResult, Contender } from "../../bench/result-types.ts";
import { UsageError } from "./errors.ts";
import { openFolder } from "./folder-source.ts";
import { packageRoot } from "./paths.ts";
import type { Mount } from "./server.ts";

/** Who runs whole models. */
const MODEL_CONTENDERS: readonly Contender[] = ["ringwise", "onnxruntime-web"];

/** Trained models lie beside the project; they are no part of it. */
const modelFolder = (name: string) => join(packageRoot(), "..", "shared", "models", name);

const isThere = (model: BenchModel) => "preset" in model || existsSync(modelFolder(model.folder));

/** The model cases that can run here. */
export const modelCaseNames = (): string[] =>
  MODEL_AGAINST_CASES.filter(({ model }) => isThere(model)).map(({ name }) => name);

/** What the pages need to be served for them. */
export function modelMounts(): Mount[] {
  const folder = modelFolder("stories260K");
  return existsSync(folder) ? [{ path: "/model/", folder }] : [];
}

const numbersOf = async (model: BenchModel): Promise<ModelNumbers> =>
  "preset" in model ? presetNumbers(model.preset) : fileNumbers(await openFolder(modelFolder(model.folder)));

/**
 * Runs one model case among those of the entrants who run models.
 * @throws {UsageError} for a name that is no model case, or one whose model is not here.
 */
export async function runModelCase(
  name: string,
  entrants: readonly Entrant[],
  probes: PeakProbes,
  options: AgainstOptions,
): Promise<BenchResult[]> {
  const shape = MODEL_AGAINST_CASES.find((one) => one.name === name);
  if (!shape) throw new UsageError(`--case ${name}: no such model case`);
  if (!isThere(shape.model)) throw new UsageError(`--case ${name}: its model is not on this machine`);
  options.say(`${name}: the oracle`);
  const numbers = await numbersOf(shape.model);
  const logits = await oracleLogits(numbers, benchPrompt(shape.promptTokens).slice(0, shape.oracleTokens));
  const runners = entrants.filter((entrant) => MODEL_CONTENDERS.includes(entrant.name));
  return runAgainstModelCase(runners, probes, shape, { config: numbers.config, logits }, options);
}
