/** What `--model` names. */
import { statSync } from "node:fs";
import { UsageError } from "./errors.ts";
import { builtFolder } from "./paths.ts";

/** Where a model is read from: a folder on this machine, or a URL or Hugging Face id that `loadModel` takes as it is. */
export type ModelPlace = { folder: string } | { source: string };

/** The model that `--model` names; without one, the model that Ringwise ships. @throws {UsageError} */
export function placeOf(model: string | undefined): ModelPlace {
  if (model === undefined) return { folder: builtFolder("demo/models/default") };
  const stat = statSync(model, { throwIfNoEntry: false });
  if (stat?.isDirectory()) return { folder: model };
  if (stat) throw new UsageError(`--model ${model}: expected a folder, a URL or a Hugging Face id, got a file`);
  if (/^https?:\/\//.test(model) || /^[\w.-]+\/[\w.-]+$/.test(model)) return { source: model };
  throw new UsageError(`--model ${model}: no such folder, and neither a URL nor a Hugging Face id ("owner/name")`);
}
