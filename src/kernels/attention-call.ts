/** One call of attention, checked once; then bound piece by piece, so that no piece exceeds a binding's limit. */
import { ShapeError } from "../errors.ts";
import { type BufferSource, viewOf } from "../gpu/buffers.ts";
import { alignedBinding, placeholder } from "../gpu/dispatch.ts";
import { type AttentionLayout, expectInteger, formatShape } from "../shape.ts";
import { type ResolvedAttention, usesVec4 } from "./attention-options.ts";
import {
  type AttentionFields,
  type BoundTensor,
  bindMask,
  bindPositions,
  bindTensor,
  type Strides,
  stridesOf,
} from "./attention-params.ts";
import type { AttentionTensors } from "./attention-types.ts";

/** A tensor of a call: its view and how it lies in memory. */
export interface CallTensor {
  name: string;
  source: BufferSource;
  strides: Strides;
  dim: number;
  /** Heads of this tensor per K/V head. */
  group: number;
  bytesPerElement: number;
}

/** A call of attention after validation. */
export interface AttentionCall {
  where: string;
  batch: number;
  seqLen: number;
  kvLen: number;
  query: CallTensor;
  key: CallTensor;
  value: CallTensor;
  output?: CallTensor;
  lse?: CallTensor;
  /** What every piece shares. */
  fields: AttentionFields;
  /** Bindings 7 to 13, as the kernels number them. */
  extras: (GPUBuffer | GPUBufferBinding | null)[];
}

/** A part of a call: batch entries, K/V heads, queries and keys, each a run. More than one batch entry only uncut. */
export interface AttentionPiece {
  batchStart: number;
  batch: number;
  headStart: number;
  kvHeads: number;
  queryStart: number;
  seqLen: number;
  kvStart: number;
  kvLen: number;
}

/** The piece that is the whole call. */
export const wholeCall = (resolved: ResolvedAttention, call: AttentionCall): AttentionPiece => ({
  ...{ batchStart: 0, batch: call.batch, headStart: 0, kvHeads: resolved.kvHeads },
  ...{ queryStart: 0, seqLen: call.seqLen, kvStart: 0, kvLen: call.kvLen },
});

/** First element of a piece of a tensor, and elements from there to its last. */
export function extentOf(tensor: CallTensor, piece: AttentionPiece, tokenStart: number, tokens: number) {
  const { strides, dim, group } = tensor;
  const first = piece.batchStart * strides.batch + piece.headStart * group * strides.head + tokenStart * strides.token;
  const last =
    (piece.batch - 1) * strides.batch + (piece.kvHeads * group - 1) * strides.head + (tokens - 1) * strides.token;
  return { first, elements: last + dim };
}

/**
 * Checks a call's sizes and buffers against the options.
 * @throws {ShapeError} naming the tensor, the shape expected and what came.
 * @throws {OptionError} for a size or position out of range.
 */
export function describeCall(
  device: GPUDevice,
  where: string,
  resolved: ResolvedAttention,
  tensors: Omit<AttentionTensors, "output" | "past"> & { output?: BufferSource; kvCapacity?: number },
  kvLayout: AttentionLayout = resolved.layout,
): AttentionCall {
  const { heads, kvHeads, headDim, valueDim, layout, bytesPerElement, group } = resolved;
  const batch = expectInteger(where, "batch", tensors.batch);
  const seqLen = expectInteger(where, "seqLen", tensors.seqLen);
  const kvLen = expectInteger(where, "kvSeqLen", tensors.kvSeqLen);
  const capacity = expectInteger(where, "kvCapacity", tensors.kvCapacity ?? kvLen, kvLen);
  const whole: AttentionPiece = {
    ...{ batchStart: 0, batch, headStart: 0, kvHeads, queryStart: 0, seqLen, kvStart: 0, kvLen },
  };
  const tensor = (name: string, source: BufferSource | undefined, isKv: boolean, dim: number): CallTensor => {
    const [tokens, count] = isKv ? [capacity, kvHeads] : [seqLen, heads];
    const order = isKv ? kvLayout : layout;
    const shape = order === "bthd" ? [batch, tokens, count, dim] : [batch, count, tokens, dim];
    const strides = stridesOf(order, tokens, count, dim);
    const result = { name, source: source!, strides, dim, group: isKv ? 1 : group, bytesPerElement };
    // A page's tokens beyond those that are filled need not be there.
    const { elements } = extentOf(result, whole, 0, isKv ? kvLen : seqLen);
    expectRoom(where, result, shape, elements, usesVec4(resolved) ? 4 : 1);
    return result;
  };
  const unwanted = (name: string, source: unknown, isWanted: boolean, option: string) => {
    if (source && !isWanted)
      throw new ShapeError(`${where}: got ${name}, but the attention was created without ${option}`);
  };
  unwanted("mask", tensors.mask, resolved.mask !== "none", "mask");
  unwanted("querySegments", tensors.querySegments, resolved.hasSegments, "hasSegments");
  unwanted("kvSegments", tensors.kvSegments, resolved.hasSegments, "hasSegments");
  unwanted("kvLengths", tensors.kvLengths, resolved.hasKvLengths, "hasKvLengths");
  unwanted("sinks", tensors.sinks, resolved.hasSinks, "hasSinks");
  const list = (name: string, source: BufferSource | undefined, isWanted: boolean, shape: number[]) =>
    isWanted ? bindTensor(device, where, source, { name, shape, bytesPerElement: 4 }) : undefined;
  const queryPositions = bindPositions(device, where, "queryPositions", tensors.queryPositions, batch, seqLen);
  const kvPositions = bindPositions(device, where, "kvPositions", tensors.kvPositions, batch, kvLen);
  const queries = { tokens: seqLen, positions: tensors.queryPositions };
  // A step meets one block of the keys, and its mask may hold the columns of all of them.
  const keys = tensors.output && { tokens: kvLen, positions: tensors.kvPositions };
  const mask =
    resolved.mask === "none" ? undefined : bindMask(device, where, tensors.mask, resolved, { batch, queries, keys });
  const querySegments = list("querySegments", tensors.querySegments, resolved.hasSegments, [batch, seqLen]);
  const kvSegments = list("kvSegments", tensors.kvSegments, resolved.hasSegments, [batch, kvLen]);
  const lengths = list("kvLengths", tensors.kvLengths, resolved.hasKvLengths, [batch]);
  const sinks = list("sinks", tensors.sinks, resolved.hasSinks && tensors.output !== undefined, [heads]);
  let lse: CallTensor | undefined;
  if (tensors.lse) {
    const strides = { batch: heads * seqLen, head: seqLen, token: 1 };
    lse = { name: "lse", source: tensors.lse, strides, dim: 1, group, bytesPerElement: 4 };
    expectRoom(where, lse, [batch, heads, seqLen], batch * heads * seqLen, 1);
  }
  return {
    ...{ where, batch, seqLen, kvLen },
    query: tensor("query", tensors.query, false, headDim),
    key: tensor("key", tensors.key, true, headDim),
    value: tensor("value", tensors.value, true, valueDim),
    output: tensors.output && tensor("output", tensors.output, false, valueDim),
    lse,
    fields: {
      ...{ qListed: queryPositions.listed, qStart: queryPositions.start, qStep: queryPositions.step },
      ...{ kvListed: kvPositions.listed, kvStart: kvPositions.start, kvStep: kvPositions.step },
      ...{ qListSkip: queryPositions.list?.skip, kvListSkip: kvPositions.list?.skip },
      ...{ qSegmentSkip: querySegments?.skip, kvSegmentSkip: kvSegments?.skip },
      ...{ lengthSkip: lengths?.skip, sinkSkip: sinks?.skip },
      ...mask?.fields,
      scoreScale: resolved.softcap > 0 ? resolved.scale / resolved.softcap : resolved.scale * Math.LOG2E,
      softcapScale: resolved.softcap * Math.LOG2E,
    },
    extras: [
      queryPositions.list?.binding ?? placeholder(device),
      kvPositions.list?.binding ?? placeholder(device),
      mask?.binding ?? null,
      ...[querySegments, kvSegments, lengths, sinks].map((bound) => bound?.binding ?? null),
    ],
  };
}

/** @throws {ShapeError} where a view is shorter than the tensor, or not aligned to its lanes. */
export function expectRoom(
  where: string,
  tensor: Pick<CallTensor, "name" | "source" | "bytesPerElement">,
  shape: number[],
  elements: number,
  lanes: number,
): void {
  const { name, bytesPerElement } = tensor;
  if (!tensor.source)
    throw new ShapeError(
      `${where}: expected a buffer for ${name} of shape ${formatShape(shape)}, got ${tensor.source}`,
    );
  const { buffer, byteOffset, byteLength } = viewOf(tensor.source);
  const needed = elements * bytesPerElement;
  const came = Math.min(byteLength, buffer.size - byteOffset);
  if (came < needed)
    throw new ShapeError(
      `${where}: expected ${name} of shape ${formatShape(shape)} (${needed} bytes), got ${came} bytes`,
    );
  const alignment = bytesPerElement * lanes;
  if (byteOffset % alignment !== 0)
    throw new ShapeError(
      `${where}: expected the byteOffset of ${name} to be a multiple of ${alignment}, got ${byteOffset}`,
    );
}

/** Binds the bytes of one tensor that a piece needs. */
export function bindExtent(
  device: GPUDevice,
  tensor: CallTensor,
  piece: AttentionPiece,
  tokenStart: number,
  tokens: number,
): BoundTensor {
  const { first, elements } = extentOf(tensor, piece, tokenStart, tokens);
  const { bytesPerElement } = tensor;
  const view = viewOf(tensor.source);
  const byteOffset = view.byteOffset + first * bytesPerElement;
  const { binding, skipBytes } = alignedBinding(device, {
    ...{ buffer: view.buffer, byteOffset, byteLength: elements * bytesPerElement },
  });
  return { binding, skip: skipBytes / bytesPerElement };
}

const strideFields = (letter: "q" | "k" | "v" | "o", { strides }: CallTensor, skip: number): AttentionFields => ({
  [`${letter}Batch`]: strides.batch,
  [`${letter}Token`]: strides.token,
  [`${letter}Head`]: strides.head,
  [`${letter}Skip`]: skip,
});

/** Fields and bindings of one piece. Bindings 0 (uniforms) and 4 to 6 (output, lse, state) are left to the caller. */
export function bindPiece(device: GPUDevice, resolved: ResolvedAttention, call: AttentionCall, piece: AttentionPiece) {
  const query = bindExtent(device, call.query, piece, piece.queryStart, piece.seqLen);
  const key = bindExtent(device, call.key, piece, piece.kvStart, piece.kvLen);
  const value = bindExtent(device, call.value, piece, piece.kvStart, piece.kvLen);
  const { batchStart, headStart, queryStart, kvStart } = piece;
  const from = call.fields;
  const get = (name: keyof AttentionFields) => from[name] ?? 0;
  const head = headStart * resolved.group;
  const fields: AttentionFields = {
    ...from,
    ...{ batch: piece.batch, seqLen: piece.seqLen, kvLen: piece.kvLen, kvHeads: piece.kvHeads },
    ...strideFields("q", call.query, query.skip),
    ...strideFields("k", call.key, key.skip),
    ...strideFields("v", call.value, value.skip),
    // Affine positions move by steps; lists by entries (one list per batch entry: listed 2).
    qStart: get("qStart") + queryStart * get("qStep"),
    kvStart: get("kvStart") + kvStart * get("kvStep"),
    qListSkip: get("qListSkip") + queryStart + (get("qListed") === 2 ? batchStart * call.seqLen : 0),
    kvListSkip: get("kvListSkip") + kvStart + (get("kvListed") === 2 ? batchStart * call.kvLen : 0),
    qSegmentSkip: get("qSegmentSkip") + batchStart * call.seqLen + queryStart,
    kvSegmentSkip: get("kvSegmentSkip") + batchStart * call.kvLen + kvStart,
    lengthSkip: get("lengthSkip") + batchStart,
    sinkSkip: get("sinkSkip") + head,
    maskSkip: get("maskSkip") + batchStart * get("maskBatch") + head * get("maskHead"),
    maskFirst: -queryStart >>> 0,
    ...{ splits: 1, splitKeys: piece.kvLen },
  };
  const bindings: (GPUBuffer | GPUBufferBinding | null)[] = [
    ...[null, query.binding, key.binding, value.binding, null, null, null],
    ...call.extras,
  ];
  return { fields, bindings };
}

/** Fields and bindings 4 and 5 of a piece's output and lse. */
export function bindOutput(device: GPUDevice, call: AttentionCall, piece: AttentionPiece) {
  const output = bindExtent(device, call.output!, piece, piece.queryStart, piece.seqLen);
  const lse = call.lse && bindExtent(device, call.lse, piece, piece.queryStart, piece.seqLen);
  const fields: AttentionFields = {
    ...strideFields("o", call.output!, output.skip),
    ...{ lseSkip: lse?.skip ?? 0, hasLse: lse ? 1 : 0 },
    ...{ lseBatch: call.lse?.strides.batch ?? 0, lseHead: call.lse?.strides.head ?? 0 },
  };
  return { fields, output: output.binding, lse: lse?.binding ?? placeholder(device, "lse") };
}
