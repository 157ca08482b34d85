/** Strided copies on the GPU: a rank's shard out of a sequence and back, new K/V into pages. */
import { type BufferSource, type BufferView, viewOf } from "../gpu/buffers.ts";
import { expectF16 } from "../gpu/device.ts";
import { alignedBinding, type CommandTarget, dispatch, spreadWorkgroups, uniforms } from "../gpu/dispatch.ts";
import { getKernel } from "../gpu/pipeline.ts";
import { specialize } from "../gpu/specialize.ts";
import { BYTES_PER_ELEMENT, type Dtype } from "../shape.ts";
import { COPY_TOKENS } from "./sources.ts";

const WORKGROUP_SIZE = 64;
const RUN = 4;

/** Strides in elements; a stride of an axis of length 1 is never used. */
export interface CopyStrides {
  outer: number;
  token: number;
  /** Default 1. */
  inner?: number;
}

/** `target[o, t, i] = source[o, t, i]`; both views begin at element [0, 0, 0]. */
export interface CopyTokensTensors {
  source: BufferSource;
  sourceStrides: CopyStrides;
  target: BufferSource;
  targetStrides: CopyStrides;
  /** Length of the first axis. Default 1. */
  outer?: number;
  tokens: number;
  width: number;
}

/** Copies between strided views; see {@link createTokenCopier}. */
export interface TokenCopier {
  /** Encodes the copy. Source and target must be different buffers. */
  encode(target: CommandTarget, tensors: CopyTokensTensors): void;
}

/** Elements from the first to one past the last that the strides reach. */
const span = (strides: CopyStrides, outer: number, tokens: number, width: number): number =>
  (outer - 1) * strides.outer + (tokens - 1) * strides.token + (width - 1) * (strides.inner ?? 1) + 1;

const shifted = (source: BufferSource, byteOffset: number): BufferView => {
  const view = viewOf(source);
  return { buffer: view.buffer, byteOffset: view.byteOffset + byteOffset };
};

/**
 * Compiles the copy for one element type; f32 copies u32 just as well (bits are moved). Copies that would need a binding
 * larger than the device allows are cut into several dispatches.
 * @throws {UnsupportedDeviceError} for f16 on a device without `shader-f16`.
 */
export async function createTokenCopier(device: GPUDevice, dtype: Dtype): Promise<TokenCopier> {
  expectF16("createTokenCopier", device, dtype);
  const kernel = await getKernel(device, {
    label: `copy-tokens.wgsl ${dtype}`,
    source: specialize(COPY_TOKENS, { Elem: dtype === "f16" ? "f16" : "u32", WORKGROUP_SIZE, RUN }),
    bindings: ["uniform", "read", "read-write"],
  });
  const bytes = BYTES_PER_ELEMENT[dtype];
  const mostElements = Math.floor((device.limits.maxStorageBufferBindingSize - 512) / bytes);

  function encode(target: CommandTarget, tensors: CopyTokensTensors): void {
    const { sourceStrides: from, targetStrides: to, outer = 1, tokens, width } = tensors;
    if (outer * tokens * width === 0) return;
    const sourceSpan = span(from, outer, tokens, width);
    const targetSpan = span(to, outer, tokens, width);
    if (Math.max(sourceSpan, targetSpan) > mostElements) {
      encodeHalves(target, tensors);
      return;
    }
    const view = viewOf(tensors.source);
    const goal = viewOf(tensors.target);
    const source = alignedBinding(device, { ...view, byteLength: sourceSpan * bytes });
    const destination = alignedBinding(device, { ...goal, byteLength: targetSpan * bytes });
    const groups = Math.ceil((outer * tokens * Math.ceil(width / RUN)) / WORKGROUP_SIZE);
    const [x, y] = spreadWorkgroups(device, groups);
    const numbers = [
      ...[outer, tokens, width, x],
      ...[source.skipBytes / bytes, from.outer, from.token, from.inner ?? 1],
      ...[destination.skipBytes / bytes, to.outer, to.token, to.inner ?? 1],
    ];
    const sizes = uniforms(
      device,
      numbers.map((u32) => ({ u32 })),
    );
    dispatch(device, target, { kernel, bindings: [sizes, source.binding, destination.binding], workgroups: [x, y] });
  }

  /** Cuts the longest outer axis in two: each half reaches over less memory. */
  function encodeHalves(target: CommandTarget, tensors: CopyTokensTensors): void {
    const { sourceStrides: from, targetStrides: to, outer = 1, tokens, width } = tensors;
    const axis = outer > 1 ? "outer" : tokens > 1 ? "tokens" : "width";
    const length = { outer, tokens, width }[axis];
    const half = Math.floor(length / 2);
    const stride = (strides: CopyStrides) =>
      ({ outer: strides.outer, tokens: strides.token, width: strides.inner ?? 1 })[axis];
    encode(target, { ...tensors, [axis]: half });
    encode(target, {
      ...tensors,
      source: shifted(tensors.source, half * stride(from) * bytes),
      target: shifted(tensors.target, half * stride(to) * bytes),
      [axis]: length - half,
    });
  }

  return { encode };
}
