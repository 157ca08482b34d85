/** Which type each weight is kept in on the GPU. */
import type { WeightDtype } from "../shape.ts";
import type { LoadOptions } from "./types.ts";

/** Tensors that one kernel reads together, which therefore share a type: an MLP's matrices and biases; a matrix and its bias. */
const groupOf = (name: string): string =>
  /^(.*\.mlp)\.(gate|up|down)_proj\./.exec(name)?.[1] ?? name.replace(/\.(weight|bias)$/, "");

/**
 * The type of every tensor on the GPU. With "auto" that is the stored one, except where only f32 holds all values exactly:
 * tensors that a kernel reads together but that are stored in different types.
 * @param tensors Names and stored types.
 */
export function weightDtypes(
  tensors: readonly { name: string; dtype: WeightDtype }[],
  weightDtype: NonNullable<LoadOptions["weightDtype"]>,
): Map<string, WeightDtype> {
  if (weightDtype !== "auto") return new Map(tensors.map(({ name }) => [name, weightDtype]));
  const groups = new Map<string, WeightDtype>();
  for (const { name, dtype } of tensors) {
    const group = groupOf(name);
    const other = groups.get(group) ?? dtype;
    groups.set(group, other === dtype ? dtype : "f32");
  }
  return new Map(tensors.map(({ name }) => [name, groups.get(groupOf(name))!]));
}
