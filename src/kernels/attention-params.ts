/** The uniform block of the attention kernels (shaders/lib/attention-params.wgsl), and where each tensor lies in memory. */
import { OptionError, ShapeError } from "../errors.ts";
import { type BufferSource, viewOf } from "../gpu/buffers.ts";
import { alignedBinding, type UniformField } from "../gpu/dispatch.ts";
import { type AttentionLayout, expectInteger, formatShape } from "../shape.ts";
import type { ResolvedAttention } from "./attention-options.ts";
import type { AttentionMask, TokenPositions } from "./attention-types.ts";

/** Field names in the order of the WGSL struct. */
const FIELDS = [
  "batch",
  "seqLen",
  "kvLen",
  "isFirst",
  "qBatch",
  "qToken",
  "qHead",
  "qSkip",
  "kBatch",
  "kToken",
  "kHead",
  "kSkip",
  "vBatch",
  "vToken",
  "vHead",
  "vSkip",
  "oBatch",
  "oToken",
  "oHead",
  "oSkip",
  "maxSkip",
  "sumSkip",
  "splitKeys",
  "splitStride",
  "lseSkip",
  "hasLse",
  "splits",
  "negativeInfinity",
  "qListed",
  "qStart",
  "qStep",
  "qListSkip",
  "kvListed",
  "kvStart",
  "kvStep",
  "kvListSkip",
  "qSegmentSkip",
  "kvSegmentSkip",
  "lengthSkip",
  "sinkSkip",
  "maskBatch",
  "maskHead",
  "maskRow",
  "maskColumn",
  "maskRows",
  "maskColumns",
  "maskKvOrigin",
  "maskSkip",
  "maskQOrigin",
  "maskFromFirst",
  "maskFirst",
  "kvHeads",
  "lseBatch",
  "lseHead",
  "scoreScale",
  "softcapScale",
] as const;

/** One field of the block: all are u32 but `negativeInfinity`, `scoreScale` and `softcapScale`. */
export type AttentionField = (typeof FIELDS)[number];

/** A call's fields; those left out are 0 (1 for `splits`). */
export type AttentionFields = Partial<Record<AttentionField, number>>;

/** The fields in the struct's order, for `uniforms()`. */
export function packFields(fields: AttentionFields): UniformField[] {
  return FIELDS.map((name): UniformField => {
    if (name === "negativeInfinity") return { f32: Number.NEGATIVE_INFINITY };
    const value = fields[name] ?? (name === "splits" ? 1 : 0);
    return name === "scoreScale" || name === "softcapScale" ? { f32: value } : { u32: value };
  });
}

/** Element strides of a tensor `[batch, tokens, heads, dim]` in the given layout. */
export interface Strides {
  batch: number;
  token: number;
  head: number;
}

/** Strides of `[B, tokens, heads, dim]` (bthd) or `[B, heads, tokens, dim]` (bhtd). */
export function stridesOf(layout: AttentionLayout, tokens: number, heads: number, dim: number): Strides {
  return layout === "bthd"
    ? { batch: tokens * heads * dim, token: heads * dim, head: dim }
    : { batch: tokens * heads * dim, token: dim, head: tokens * dim };
}

/** A tensor bound for a kernel: the binding, and the elements to skip in it. */
export interface BoundTensor {
  binding: GPUBufferBinding;
  skip: number;
}

/** What a tensor must hold, for {@link bindTensor}. */
export interface TensorExpectation {
  name: string;
  shape: readonly number[];
  /** Elements that are read or written; the product of the shape unless given. */
  elements?: number;
  bytesPerElement: number;
  /** The element skip must be a multiple of it: 4 where elements are met as vec4. */
  multipleOf?: number;
}

/**
 * Binds exactly the bytes that a tensor needs.
 * @throws {ShapeError} where the view is too short or not aligned.
 * @throws {OptionError} where the bytes exceed one binding.
 */
export function bindTensor(
  device: GPUDevice,
  where: string,
  source: BufferSource | undefined,
  expected: TensorExpectation,
): BoundTensor {
  const { name, shape, bytesPerElement, multipleOf = 1 } = expected;
  if (!source)
    throw new ShapeError(`${where}: expected a buffer for ${name} of shape ${formatShape(shape)}, got ${source}`);
  const view = viewOf(source);
  const byteLength = (expected.elements ?? shape.reduce((product, axis) => product * axis, 1)) * bytesPerElement;
  if (view.byteLength < byteLength || view.byteOffset + byteLength > view.buffer.size)
    throw new ShapeError(
      `${where}: expected ${name} of shape ${formatShape(shape)} (${byteLength} bytes), got ${Math.min(view.byteLength, view.buffer.size - view.byteOffset)} bytes`,
    );
  if (view.byteOffset % (bytesPerElement * multipleOf) !== 0)
    throw new ShapeError(
      `${where}: expected the byteOffset of ${name} to be a multiple of ${bytesPerElement * multipleOf}, got ${view.byteOffset}`,
    );
  const { binding, skipBytes } = alignedBinding(device, { ...view, byteLength });
  if (binding.size! > device.limits.maxStorageBufferBindingSize)
    throw new OptionError(
      `${where}: ${name} of shape ${formatShape(shape)} takes ${binding.size} bytes in one binding, and this device allows ${device.limits.maxStorageBufferBindingSize} (maxStorageBufferBindingSize)`,
    );
  return { binding, skip: skipBytes / bytesPerElement };
}

/** Positions as fields, and the list to bind where there is one. */
export interface BoundPositions {
  listed: 0 | 1 | 2;
  start: number;
  step: number;
  list?: BoundTensor;
}

/** The largest position that a token may have: kernels add windows and block sizes to it in u32. */
const MAX_POSITION = 2 ** 31 - 1;

/** Checks and binds token positions. @throws {OptionError} where one exceeds 2^31 - 1. @throws {ShapeError} */
export function bindPositions(
  device: GPUDevice,
  where: string,
  name: string,
  positions: TokenPositions | undefined,
  batch: number,
  tokens: number,
): BoundPositions {
  if (!positions || !("positions" in positions)) {
    const start = expectInteger(where, `${name}.start`, positions?.start ?? 0, 0, MAX_POSITION);
    const step = expectInteger(where, `${name}.stride`, positions?.stride ?? 1, 1, MAX_POSITION);
    const last = start + (tokens - 1) * step;
    if (last > MAX_POSITION)
      throw new OptionError(
        `${where}: expected ${name} up to ${MAX_POSITION}, got ${tokens} positions from ${start} by ${step}, up to ${last}`,
      );
    return { listed: 0, start, step };
  }
  const min = expectInteger(where, `${name}.min`, positions.min ?? 0, 0, MAX_POSITION);
  expectInteger(where, `${name}.max`, positions.max ?? MAX_POSITION, min, MAX_POSITION);
  const shape = positions.perBatch ? [batch, tokens] : [tokens];
  const list = bindTensor(device, where, positions.positions, { name, shape, bytesPerElement: 4 });
  return { listed: positions.perBatch ? 2 : 1, start: 0, step: 1, list };
}

/** The tokens that a mask's rows or columns belong to. */
export interface MaskAxis {
  /** How many tokens the call has. */
  tokens: number;
  positions: TokenPositions | undefined;
}

/** First and last position of an axis, or undefined where only the GPU knows them. */
function spanOf({ tokens, positions }: MaskAxis): { first: number; last: number } | undefined {
  if (positions && "positions" in positions) {
    const { min, max } = positions;
    return min === undefined || max === undefined ? undefined : { first: min, last: max };
  }
  const first = positions?.start ?? 0;
  return { first, last: first + (tokens - 1) * (positions?.stride ?? 1) };
}

/**
 * How many rows the mask must have, in words, or undefined where it has them. A mask that begins at the first query has
 * one per position up to the last query; one with a queryOrigin of its own may reach further on both sides.
 */
function missingRows(rows: number, queries: MaskAxis, queryOrigin: number | undefined): string | undefined {
  if (rows === 1) return undefined;
  const span = spanOf(queries);
  if (!span) return rows < queries.tokens && queryOrigin === undefined ? `T at least ${queries.tokens}` : undefined;
  const origin = queryOrigin ?? span.first;
  const needed = span.last - origin + 1;
  if (queryOrigin === undefined) return rows === needed ? undefined : `T ${needed}`;
  if (origin > span.first) return `T that begins at position ${span.first} or before (queryOrigin)`;
  return rows >= needed ? undefined : `T at least ${needed} (from queryOrigin ${origin} to position ${span.last})`;
}

/** What a mask must fit, for {@link bindMask}. */
export interface MaskExpectation {
  batch: number;
  queries: MaskAxis;
  /** The keys, where the call meets all of them: a mask's last axis may be shorter (the rest is hidden), not longer. */
  keys?: MaskAxis;
}

/** The mask's fields and binding. Broadcast axes get stride 0. @throws {ShapeError} */
export function bindMask(
  device: GPUDevice,
  where: string,
  mask: AttentionMask | undefined,
  resolved: ResolvedAttention,
  { batch, queries, keys }: MaskExpectation,
): { fields: AttentionFields; binding: GPUBufferBinding } {
  if (!mask) throw new ShapeError(`${where}: expected a mask (mask: "${resolved.mask}"), got ${mask}`);
  const { shape } = mask;
  const [maskBatch, maskHeads, rows, columns] = [1, 1, 1, 1, ...shape].slice(-4) as [number, number, number, number];
  const fits = (axis: number, size: number) => axis === 1 || axis === size;
  const refuse = (sizes: string) => {
    const expected = `[T, S], [H, T, S] or [B, H, T, S] with ${sizes}, or 1 where broadcast`;
    throw new ShapeError(`${where}: expected mask of shape ${expected}, got ${formatShape(shape)}`);
  };
  if (shape.length < 2 || shape.length > 4 || !fits(maskBatch, batch) || !fits(maskHeads, resolved.heads))
    refuse(`H ${resolved.heads}, B ${batch}`);
  const missing = missingRows(rows, queries, mask.queryOrigin);
  if (missing) refuse(missing);
  const kvSpan = keys && spanOf(keys);
  const mostColumns = kvSpan ? kvSpan.last - (mask.kvOrigin ?? 0) + 1 : Number.POSITIVE_INFINITY;
  if (columns > 1 && columns > mostColumns) refuse(`S at most ${mostColumns}`);
  const bytesPerElement = resolved.mask === "additive" ? 4 : 1;
  const bound = bindTensor(device, where, mask.buffer, { name: "mask", shape, bytesPerElement });
  const broadcast = 0xffffffff;
  return {
    binding: bound.binding,
    fields: {
      maskBatch: maskBatch === 1 ? 0 : maskHeads * rows * columns,
      maskHead: maskHeads === 1 ? 0 : rows * columns,
      maskRow: rows === 1 ? 0 : columns,
      maskColumn: columns === 1 ? 0 : 1,
      maskRows: rows === 1 ? broadcast : rows,
      maskColumns: columns === 1 ? broadcast : columns,
      maskSkip: bound.skip,
      maskQOrigin: mask.queryOrigin ?? 0,
      maskFromFirst: mask.queryOrigin === undefined ? 1 : 0,
      maskKvOrigin: mask.kvOrigin ?? 0,
    },
  };
}
