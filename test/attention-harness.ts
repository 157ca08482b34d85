/** What every attention test needs: seeded inputs of a named case, the oracle's answer, the GPU's, and the tolerance. */
import { allocate, read, release, upload } from "../src/gpu/buffers.ts";
import type { CommandTarget } from "../src/gpu/dispatch.ts";
import type { AttentionOptions, AttentionTensors } from "../src/kernels/attention-types.ts";
import {
  type ReferenceAttention,
  type ReferenceAttentionOptions,
  referenceAttention,
} from "../src/reference/attention.ts";
import type { AttentionCase } from "./cases.ts";
import { decodeF16, encodeF16 } from "./f16.ts";

/** Numbers in (-1, 1), the same for the same seed. */
export function seededRandom(seed: number): () => number {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 31 - 1;
  };
}

/** The inputs of a case, as plain numbers that the case's dtype holds exactly. */
export interface AttentionInputs {
  query: Float32Array<ArrayBuffer>;
  key: Float32Array<ArrayBuffer>;
  value: Float32Array<ArrayBuffer>;
  mask?: { shape: number[]; data: Float32Array<ArrayBuffer> };
  querySegments?: Uint32Array<ArrayBuffer>;
  kvSegments?: Uint32Array<ArrayBuffer>;
  kvLengths?: Uint32Array<ArrayBuffer>;
  sinks?: Float32Array<ArrayBuffer>;
}

/** Seeded inputs: about unit variance, so that softmax is neither flat nor one-hot. */
export function makeInputs(c: AttentionCase, seed = 1): AttentionInputs {
  const random = seededRandom(seed);
  const valueDim = c.valueDim ?? c.headDim;
  const exact = (x: number) => (c.dtype === "f16" ? decodeF16(encodeF16(x)) : Math.fround(x));
  const fill = (count: number, amplitude: number) =>
    Float32Array.from({ length: count }, () => exact(random() * amplitude));
  const inputs: AttentionInputs = {
    query: fill(c.batch * c.seqLen * c.heads * c.headDim, 1.7),
    key: fill(c.batch * c.kvSeqLen * c.kvHeads * c.headDim, 1.7),
    value: fill(c.batch * c.kvSeqLen * c.kvHeads * valueDim, 1.7),
  };
  if (c.mask && c.mask !== "none") {
    const shape = [c.batch, 1, c.seqLen, c.kvSeqLen];
    const data = Float32Array.from({ length: c.batch * c.seqLen * c.kvSeqLen }, () => {
      const x = random();
      if (c.mask === "boolean") return x > -0.4 ? 1 : 0;
      return x > 0.8 ? Number.NEGATIVE_INFINITY : x * 2;
    });
    inputs.mask = { shape, data };
  }
  if (c.hasSegments) {
    // Both sides take the id of the token's own position: runs of 7, 14 and so on.
    const segment = (position: number) => Math.floor(Math.sqrt(position / 7));
    inputs.querySegments = Uint32Array.from({ length: c.batch * c.seqLen }, (_, i) =>
      segment((i % c.seqLen) + (c.queryStart ?? 0)),
    );
    inputs.kvSegments = Uint32Array.from({ length: c.batch * c.kvSeqLen }, (_, i) => segment(i % c.kvSeqLen));
  }
  if (c.hasKvLengths)
    inputs.kvLengths = Uint32Array.from({ length: c.batch }, (_, b) =>
      b === 0 ? 0 : Math.ceil((c.kvSeqLen * b) / c.batch),
    );
  if (c.hasSinks) inputs.sinks = fill(c.heads, 2);
  return inputs;
}

/** The case's options for createAttention and createAttentionStepper. */
export function optionsOf(c: AttentionCase): AttentionOptions {
  const { heads, kvHeads, headDim, valueDim, dtype, layout, scale, softcap, isCausal, causalBlockSize, window } = c;
  const { mask, hasSegments, hasKvLengths, hasSinks } = c;
  return {
    ...{ heads, kvHeads, headDim, valueDim, dtype, layout, scale, softcap, isCausal, causalBlockSize, window },
    ...{ mask, hasSegments, hasKvLengths, hasSinks, label: c.name },
  };
}

/** The oracle's answer, or with "f32" that of a plain single-precision computation. */
export function expected(
  c: AttentionCase,
  inputs: AttentionInputs,
  precision: "f64" | "f32" = "f64",
  extra: Partial<ReferenceAttentionOptions> = {},
): ReferenceAttention {
  const { mask } = inputs;
  const { dtype: _dtype, name: _name, use: _use, mask: _mask, queryStart = 0, ...rest } = c;
  return referenceAttention(inputs.query, inputs.key, inputs.value, {
    ...rest,
    valueDim: c.valueDim ?? c.headDim,
    queryPosition: (_b, t) => t + queryStart,
    querySegments: inputs.querySegments,
    kvSegments: inputs.kvSegments,
    kvLengths: inputs.kvLengths,
    sinks: inputs.sinks,
    mask:
      mask &&
      ((b, _h, t, s) => {
        const x = mask.data[(b * c.seqLen + t) * c.kvSeqLen + s]!;
        return c.mask === "boolean" ? (x ? 0 : Number.NEGATIVE_INFINITY) : x;
      }),
    precision,
    ...extra,
  });
}

/** A case's inputs on the GPU, with room for output and lse. */
export interface GpuCase {
  tensors: AttentionTensors & { lse: GPUBuffer; output: GPUBuffer };
  /** Runs what `encode` encodes and reads output and lse back. */
  run(encode: (target: CommandTarget) => void): Promise<{ output: Float32Array; lse: Float32Array }>;
  destroy(): void;
}

/** Bytes of numbers in the case's dtype. */
export const toDtype = (
  data: Float32Array<ArrayBuffer>,
  dtype: "f32" | "f16",
): Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer> => (dtype === "f32" ? data : Uint16Array.from(data, encodeF16));

/** Uploads a case. */
export async function uploadCase(device: GPUDevice, c: AttentionCase, inputs: AttentionInputs): Promise<GpuCase> {
  const buffers: GPUBuffer[] = [];
  const put = async (label: string, data: ArrayBufferView<ArrayBuffer>) => {
    const buffer = await upload(device, label, data);
    buffers.push(buffer);
    return buffer;
  };
  const room = async (label: string, byteLength: number) => {
    const buffer = await allocate(device, { label, byteLength });
    buffers.push(buffer);
    return buffer;
  };
  const outputCount = c.batch * c.seqLen * c.heads * (c.valueDim ?? c.headDim);
  const rows = c.batch * c.seqLen * c.heads;
  const maskBytes = () =>
    c.mask === "boolean" ? Uint8Array.from(inputs.mask!.data) : (inputs.mask!.data as ArrayBufferView<ArrayBuffer>);
  const tensors = {
    query: await put("query", toDtype(inputs.query, c.dtype)),
    key: await put("key", toDtype(inputs.key, c.dtype)),
    value: await put("value", toDtype(inputs.value, c.dtype)),
    output: await room("output", outputCount * (c.dtype === "f16" ? 2 : 4)),
    lse: await room("lse", rows * 4),
    ...{ batch: c.batch, seqLen: c.seqLen, kvSeqLen: c.kvSeqLen },
    queryPositions: { start: c.queryStart ?? 0 },
    mask: inputs.mask && { buffer: await put("mask", maskBytes()), shape: inputs.mask.shape },
    querySegments: inputs.querySegments && (await put("query segments", inputs.querySegments)),
    kvSegments: inputs.kvSegments && (await put("kv segments", inputs.kvSegments)),
    kvLengths: inputs.kvLengths && (await put("kv lengths", inputs.kvLengths)),
    sinks: inputs.sinks && (await put("sinks", inputs.sinks)),
  };
  return {
    tensors,
    async run(encode) {
      device.pushErrorScope("validation");
      const encoder = device.createCommandEncoder();
      encode(encoder);
      device.queue.submit([encoder.finish()]);
      const error = await device.popErrorScope();
      if (error) throw new Error(error.message);
      const bytes = await read(device, {
        buffer: tensors.output,
        byteLength: outputCount * (c.dtype === "f16" ? 2 : 4),
      });
      const output = c.dtype === "f16" ? Float32Array.from(new Uint16Array(bytes), decodeF16) : new Float32Array(bytes);
      return { output, lse: new Float32Array(await read(device, { buffer: tensors.lse, byteLength: rows * 4 })) };
    },
    destroy: () => buffers.forEach(release),
  };
}

/** Largest difference; infinite where one side is not finite and the other is not the same. */
export function maxError(got: ArrayLike<number>, want: ArrayLike<number>): number {
  let worst = got.length === want.length ? 0 : Number.POSITIVE_INFINITY;
  for (let i = 0; i < want.length; i++) {
    if (Object.is(got[i], want[i]) || got[i] === want[i]) continue;
    const error = Math.abs(got[i]! - want[i]!);
    worst = Math.max(worst, Number.isNaN(error) ? Number.POSITIVE_INFINITY : error);
  }
  return worst;
}

/** The last two bits of a number of about one: how far a correctly computed f32 may lie off by its rounding alone. */
const LAST_BITS = 2 ** -22;

/**
 * The rule of the project: at most twice the error that a plain computation in the same precision makes, plus a floor of the
 * last bits of each number (of its size, and of 1 for smaller ones).
 */
export function expectClose(
  got: { output: ArrayLike<number>; lse: ArrayLike<number> },
  oracle: ReferenceAttention,
  plain: ReferenceAttention,
  dtype: "f32" | "f16",
): void {
  const rounded = (x: number) => (dtype === "f16" ? decodeF16(encodeF16(x)) : Math.fround(x));
  const check = (name: string, values: ArrayLike<number>, want: ArrayLike<number>, plainValues: ArrayLike<number>) => {
    const allowed = 2 * maxError(plainValues, want);
    if (values.length !== want.length) throw new Error(`${name}: ${values.length} values, expected ${want.length}`);
    for (let i = 0; i < want.length; i++) {
      const error = maxError([values[i]!], [want[i]!]);
      const limit = allowed + (Number.isFinite(want[i]!) ? LAST_BITS * Math.max(1, Math.abs(want[i]!)) : 0);
      if (!(error <= limit))
        throw new Error(`${name}[${i}]: error ${error.toExponential(2)} exceeds ${limit.toExponential(2)}`);
    }
  };
  check("output", got.output, oracle.output, plain.output.map(rounded));
  check("lse", got.lse, oracle.lse, plain.lse);
}

/** How many compute passes an encoding begins on its encoder. */
export function countPasses(target: CommandTarget, encode: (target: CommandTarget) => void): number {
  const encoder = target as GPUCommandEncoder;
  const begin = encoder.beginComputePass.bind(encoder);
  let passes = 0;
  encoder.beginComputePass = (descriptor) => {
    passes++;
    return begin(descriptor);
  };
  encode(encoder);
  return passes;
}
