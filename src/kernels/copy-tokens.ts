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
/** Elements that the wide variant moves at once. */
const WIDE = 4;

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
 * larger than the device allows, or than `maxBindingByteLength`, are cut into several dispatches.
 * @throws {UnsupportedDeviceError} for f16 on a device without `shader-f16`.
 */
export async function createTokenCopier(
  device: GPUDevice,
  dtype: Dtype,
  maxBindingByteLength = device.limits.maxStorageBufferBindingSize,
): Promise<TokenCopier> {
  expectF16("createTokenCopier", device, dtype);
  const element = dtype === "f16" ? "f16" : "u32";
  const [narrow, wide] = await Promise.all(
    [element, `vec4<${element}>`].map((Elem) =>
      getKernel(device, {
        label: `copy-tokens.wgsl ${Elem}`,
        source: specialize(COPY_TOKENS, { Elem, WORKGROUP_SIZE, RUN }),
        bindings: ["uniform", "read", "read-write"],
      }),
    ),
  );
  const bytes = BYTES_PER_ELEMENT[dtype];
  const mostElements = Math.floor((maxBindingByteLength - 512) / bytes);

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
    const starts = [source.skipBytes / bytes, destination.skipBytes / bytes];
    // Strides of an axis of length 1 are never used.
    const outers = outer > 1 ? [from.outer, to.outer] : [0, 0];
    const steps = tokens > 1 ? [from.token, to.token] : [0, 0];
    const inners = [from.inner ?? 1, to.inner ?? 1];
    const isWide =
      inners.every((inner) => inner === 1) &&
      [width, ...starts, ...outers, ...steps].every((elements) => elements % WIDE === 0);
    const unit = isWide ? WIDE : 1;
    const kernel = isWide ? wide! : narrow!;
    const groups = Math.ceil((outer * tokens * Math.ceil(width / unit / RUN)) / WORKGROUP_SIZE);
    const [x, y] = spreadWorkgroups(device, groups);
    const numbers = [outer, tokens, width / unit, x];
    for (const side of [0, 1])
      numbers.push(starts[side]! / unit, outers[side]! / unit, steps[side]! / unit, inners[side]!);
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
