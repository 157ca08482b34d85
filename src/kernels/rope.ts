/**
 * Rotary position embedding applied to query or key on the GPU, with tables from the CPU (rope-tables.ts): uploaded once per
 * chunk of tokens and shared by all layers.
 *
 * Measured (SwiftShader, CPU time): 512 tokens x 9 heads x 64 in 10 ms, where a 576 x 576 matmul of them takes 112 ms.
 */
import { OptionError, ShapeError } from "../errors.ts";
import { allocate, type BufferSource, type BufferView, release, viewOf, write } from "../gpu/buffers.ts";
import { expectF16 } from "../gpu/device.ts";
import {
  alignedBinding,
  type CommandTarget,
  dispatch,
  placeholder,
  spreadWorkgroups,
  uniforms,
} from "../gpu/dispatch.ts";
import { getKernel } from "../gpu/pipeline.ts";
import { specialize } from "../gpu/specialize.ts";
import { type AttentionLayout, BYTES_PER_ELEMENT, type Dtype, expectInteger, expectOneOf } from "../shape.ts";
import { partOf } from "./matmul-options.ts";
import { isInPlace } from "./rmsnorm.ts";
import { type RopeScaling, ropeTable } from "./rope-tables.ts";
import { ROPE } from "./sources.ts";

/** What does not change between calls of a rope. */
export interface RopeOptions {
  /** D: elements of a head. */
  headDim: number;
  /** The first elements of a head that rotate; even. Default `headDim`. */
  rotaryDim?: number;
  /** Pairs are (2i, 2i + 1) instead of Hugging Face's (i, i + rotaryDim / 2). Default false. */
  interleaved?: boolean;
  /** Default "bthd". */
  layout?: AttentionLayout;
  /** Type of input and output. Default "f32". */
  dtype?: Dtype;
  label?: string;
}

/** One call. B batch, T seqLen, H heads, D headDim. */
export interface RopeTensors {
  /** `[B, T, H, D]` or `[B, H, T, D]` */
  input: BufferSource;
  /** As the input. Left out, or the input itself: in place. Otherwise another buffer than the input's. */
  output?: BufferSource;
  /** f32 `[T, rotaryDim / 2, 2]`, or with `perBatch` `[B, T, rotaryDim / 2, 2]`: cos and sin. See {@link ropeTable}. */
  table: BufferSource;
  /** Default 1. */
  batch?: number;
  seqLen: number;
  heads: number;
  /** Each batch entry has a table of its own. Default false. */
  perBatch?: boolean;
}

/** A compiled rope; see {@link createRope}. */
export interface Rope {
  /** Encodes the rotation. @throws {ShapeError} where a tensor is too small, or another view of the input's buffer. */
  encode(target: CommandTarget, tensors: RopeTensors): void;
}

const WORKGROUP_SIZE = 64;

/** A part of a call: batch entries, tokens and heads from these on. */
interface Part {
  batch: number;
  token: number;
  head: number;
  counts: { batch: number; token: number; head: number };
}

/**
 * Compiles a rotation.
 * @throws {OptionError} where rotaryDim is odd or larger than headDim. @throws {UnsupportedDeviceError} for f16 without `shader-f16`.
 */
export async function createRope(device: GPUDevice, options: RopeOptions): Promise<Rope> {
  const where = options.label ? `rope("${options.label}")` : "rope";
  const headDim = expectInteger(where, "headDim", options.headDim);
  const rotaryDim = expectInteger(where, "rotaryDim", options.rotaryDim ?? headDim, 2, headDim);
  if (rotaryDim % 2) throw new OptionError(`${where}: expected rotaryDim to be even, got ${rotaryDim}`);
  const layout = expectOneOf(where, "layout", options.layout ?? "bthd", ["bthd", "bhtd"]);
  const dtype = expectOneOf(where, "dtype", options.dtype ?? "f32", ["f32", "f16"]);
  expectF16(where, device, dtype);
  const bytes = BYTES_PER_ELEMENT[dtype];
  const compile = (inPlace: boolean) =>
    getKernel(device, {
      label: `rope.wgsl${inPlace ? " in place" : ""}`,
      source: specialize(ROPE, {
        Elem: dtype,
        WORKGROUP_SIZE,
        INTERLEAVED: options.interleaved ?? false,
        IN_PLACE: inPlace,
      }),
      bindings: ["uniform", "read", "read", "read-write"],
    });
  const [between, within] = await Promise.all([compile(false), compile(true)]);
  const mostBytes = device.limits.maxStorageBufferBindingSize - device.limits.minStorageBufferOffsetAlignment;

  function encode(target: CommandTarget, tensors: RopeTensors): void {
    const batch = expectInteger(where, "batch", tensors.batch ?? 1, 0);
    const token = expectInteger(where, "seqLen", tensors.seqLen, 0);
    const head = expectInteger(where, "heads", tensors.heads);
    if (batch * token === 0) return;
    encodePart(target, tensors, { batch: 0, token: 0, head: 0, counts: { batch, token, head } });
  }

  function encodePart(target: CommandTarget, tensors: RopeTensors, part: Part): void {
    const { seqLen, heads } = tensors;
    const { counts } = part;
    const strides = {
      batch: seqLen * heads * headDim,
      token: layout === "bthd" ? heads * headDim : headDim,
      head: layout === "bthd" ? headDim : seqLen * headDim,
    };
    const first = part.batch * strides.batch + part.token * strides.token + part.head * strides.head;
    const reach = (n: typeof counts) =>
      (n.batch - 1) * strides.batch + (n.token - 1) * strides.token + (n.head - 1) * strides.head + headDim;
    const pairs = rotaryDim / 2;
    const tableBatch = tensors.perBatch ? seqLen * pairs : 0;
    const tableFirst = part.batch * tableBatch + part.token * pairs;
    const tableBytes = ((counts.batch - 1) * tableBatch + counts.token * pairs) * 8;
    if (Math.max(reach(counts) * bytes, tableBytes) > mostBytes) {
      // Too far for one binding: halve the outermost axis there is.
      const order = layout === "bthd" ? (["batch", "token", "head"] as const) : (["batch", "head", "token"] as const);
      const axis = order.find((name) => counts[name] > 1);
      if (!axis)
        throw new ShapeError(`${where}: expected a head of at most ${mostBytes} bytes, got ${headDim * bytes}`);
      const half = Math.floor(counts[axis] / 2);
      encodePart(target, tensors, { ...part, counts: { ...counts, [axis]: half } });
      const rest = { ...counts, [axis]: counts[axis] - half };
      encodePart(target, tensors, { ...part, [axis]: part[axis] + half, counts: rest });
      return;
    }
    const inPlace = isInPlace(where, tensors.input, tensors.output);
    const bind = (name: string, source: BufferSource) =>
      alignedBinding(device, partOf(where, name, source, first * bytes, reach(counts) * bytes));
    const output = bind("output", tensors.output ?? tensors.input);
    const input = inPlace ? output : bind("input", tensors.input);
    const table = alignedBinding(device, partOf(where, "table", tensors.table, tableFirst * 8, tableBytes));
    if (table.skipBytes % 8)
      throw new ShapeError(
        `${where}: expected table at a multiple of 8 bytes, got ${viewOf(tensors.table).byteOffset}`,
      );
    const items = pairs + (inPlace ? 0 : headDim - rotaryDim);
    const count = counts.batch * counts.token * counts.head * items;
    const [x, y] = spreadWorkgroups(device, Math.ceil(count / WORKGROUP_SIZE));
    const sizes = [
      ...[counts.batch, counts.token, counts.head, strides.batch, strides.token, strides.head],
      ...[input.skipBytes / bytes, output.skipBytes / bytes, table.skipBytes / 8, tableBatch, rotaryDim, headDim, x],
    ].map((u32) => ({ u32 }));
    dispatch(device, target, {
      kernel: inPlace ? within : between,
      bindings: [uniforms(device, sizes), inPlace ? placeholder(device) : input.binding, table.binding, output.binding],
      workgroups: [x, y],
    });
  }

  return { encode };
}

/** What {@link createRopeTables} needs. */
export interface RopeTablesOptions {
  config: RopeScaling;
  rotaryDim: number;
  /** Tokens that fit. */
  capacity: number;
  label?: string;
}

/** cos and sin of a chunk of tokens, in a GPU buffer that is allocated once. */
export interface RopeTables {
  /** f32 `[capacity, rotaryDim / 2, 2]`; of it the tokens of the last `set`. */
  readonly buffer: GPUBuffer;
  /** The part of `buffer` that holds tokens `start` to `start + count - 1` of the last `set`. */
  view(start: number, count: number): BufferView;
  /**
   * Computes and uploads the table of these positions, for everything submitted from here on.
   * @param seqLen Tokens of the whole sequence, for "dynamic". Default: the largest position + 1.
   * @throws {ShapeError} for more positions than fit. @throws {OptionError} for a position that is not an integer >= 0.
   */
  set(positions: ArrayLike<number>, seqLen?: number): void;
  /** Frees the table's buffer. */
  destroy(): void;
  [Symbol.dispose](): void;
}

/** Allocates a table for up to `capacity` tokens. @throws {GpuMemoryError} */
export async function createRopeTables(device: GPUDevice, options: RopeTablesOptions): Promise<RopeTables> {
  const { config, rotaryDim, capacity, label = "rope table" } = options;
  const buffer = await allocate(device, { label, byteLength: capacity * rotaryDim * 4 });
  const destroy = () => release(buffer);
  return {
    buffer,
    view: (start, count) => ({ buffer, byteOffset: start * rotaryDim * 4, byteLength: count * rotaryDim * 4 }),
    set(positions, seqLen) {
      if (positions.length > capacity)
        throw new ShapeError(`ropeTables.set: expected at most ${capacity} positions, got ${positions.length}`);
      write(device, buffer, 0, ropeTable(config, { rotaryDim, positions, seqLen }));
    },
    destroy,
    [Symbol.dispose]: destroy,
  };
}
