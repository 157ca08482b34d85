/** Which attention cases contenders meet in. */
import { ATTENTION_CASES, type AttentionCase } from "../../test/cases.ts";

/** Measured without `--case`: the table of prefill and decode, and what most peers cannot do. */
export const AGAINST_DEFAULT_CASES: readonly string[] = [
  "prefill-1024",
  "prefill-1024-causal",
  "prefill-2048",
  "prefill-2048-causal",
  "prefill-4096",
  "prefill-4096-causal",
  "decode-4096",
  "decode-16384",
  "decode-32768",
  "gqa-32-8-dim-128",
  "head-dim-80",
  "head-dim-96",
  "head-dim-256",
  "softcap-1024-causal",
  "window-256-of-4096",
  "prefill-16384-causal",
];

/** Whether every contender can be given this case's inputs: plain f32 tensors `[B, T, H, D]`, masks from positions. */
const canMeet = (shape: AttentionCase): boolean =>
  shape.dtype === "f32" &&
  (shape.layout ?? "bthd") === "bthd" &&
  (shape.mask ?? "none") === "none" &&
  !shape.hasSegments &&
  !shape.hasKvLengths &&
  !shape.hasSinks;

/** Names of all cases that contenders can meet in. */
export const againstCaseNames = (): string[] => ATTENTION_CASES.filter(canMeet).map(({ name }) => name);

/** The shape of a name. @throws {RangeError} where contenders meet in no case of this name. */
export function againstCase(name: string): AttentionCase {
  const found = ATTENTION_CASES.find((shape) => shape.name === name && canMeet(shape));
  if (!found) throw new RangeError(`againstCase: no case named "${name}" that contenders meet in`);
  return found;
}

/** Bytes of query, key, value and output. */
export function tensorBytes(shape: AttentionCase): number {
  const { batch, seqLen, kvSeqLen, heads, kvHeads, headDim, valueDim = headDim } = shape;
  return 4 * batch * (seqLen * heads + kvSeqLen * kvHeads) * (headDim + valueDim);
}
