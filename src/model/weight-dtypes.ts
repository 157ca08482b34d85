/** Which type each weight is kept in on the GPU. */
import type { WeightDtype } from "../shape.ts";
import type { LoadOptions } from "./types.ts";

/** Tensors that one kernel reads together, which therefore share a type: an MLP's matrices and biases; a matrix and its bias. */
const groupOf = (name: string): string =>
  /^(.*\.mlp)\.(gate|up|down)_proj\./.exec(name)?.[1] ?? name.replace(/\.(weight|bias)$/, "");

/**
 * The type of every tensor on the GPU. With "auto" that is the stored one, but f32, which holds all values exactly, for
 * - tensors that a kernel reads together but that are stored in different types;
 * - f16 on a CPU adapter, where widening as kernels read (`unpack2x16float`) is emulated. Measured: the default model on
 *   SwiftShader in Chrome, f32 over f16, median of six alternating runs: prefill 1.5, decode 1.4.
 * @param tensors Names and stored types.
 */
export function weightDtypes(
  tensors: readonly { name: string; dtype: WeightDtype }[],
  weightDtype: NonNullable<LoadOptions["weightDtype"]>,
  { isCpu }: { isCpu: boolean },
): Map<string, WeightDtype> {
  if (weightDtype !== "auto") return new Map(tensors.map(({ name }) => [name, weightDtype]));
  const groups = new Map<string, WeightDtype>();
  for (const { name, dtype: stored } of tensors) {
    const dtype = isCpu && stored === "f16" ? "f32" : stored;
    const group = groupOf(name);
    const other = groups.get(group) ?? dtype;
    groups.set(group, other === dtype ? dtype : "f32");
  }
  return new Map(tensors.map(({ name }) => [name, groups.get(groupOf(name))!]));
}
