/** What the float64 oracle says of a benched model: its logits after some tokens. */
import { LlamaReference } from "../../src/reference/llama.ts";
import type { ModelNumbers } from "./model-numbers.ts";

/** The logits `[V]` after the last of the tokens; each token takes a multiplication per weight on one processor. */
export async function oracleLogits(numbers: ModelNumbers, ids: readonly number[]): Promise<Float64Array> {
  const weights = new Map<string, Float32Array>();
  for (const { name, shape } of numbers.tensors) weights.set(name, await numbers.tensor(name, shape));
  return new LlamaReference(numbers.reference, weights).forward(ids);
}
