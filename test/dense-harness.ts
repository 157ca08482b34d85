/** What the tests of the dense kernels share: seeded tensors of a weight type, reading back, and the tolerance rule. */
import { allocate, read, upload } from "../src/gpu/buffers.ts";
import type { WeightDtype } from "../src/shape.ts";
import { seededRandom } from "./attention-harness.ts";
import { decodeF16, encodeF16 } from "./f16.ts";

/** Numbers that the type holds exactly, and their bytes as a file would hold them. */
export interface Tensor {
  values: Float32Array<ArrayBuffer>;
  bytes: Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>;
}

const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);

/** The upper half of a float32, nearest (ties up, which is enough for test data). */
function encodeBf16(value: number): number {
  float[0] = value;
  return ((bits[0]! + 0x8000) >>> 16) & 0xffff;
}

function decodeBf16(pattern: number): number {
  bits[0] = pattern << 16;
  return float[0]!;
}

/** Turns numbers into a tensor of the type. */
export function tensorOf(numbers: Float32Array<ArrayBuffer>, dtype: WeightDtype): Tensor {
  if (dtype === "f32") return { values: numbers, bytes: numbers };
  const bytes = Uint16Array.from(numbers, dtype === "f16" ? encodeF16 : encodeBf16);
  return { values: Float32Array.from(bytes, dtype === "f16" ? decodeF16 : decodeBf16), bytes };
}

/** Seeded numbers in (-amplitude, amplitude), as a tensor of the type. */
export function randomTensor(count: number, dtype: WeightDtype, seed: number, amplitude = 1): Tensor {
  const random = seededRandom(seed);
  return tensorOf(
    Float32Array.from({ length: count }, () => random() * amplitude),
    dtype,
  );
}

/** Uploads bytes so that they begin `elements` into a larger buffer filled with NaN, which a stray read would show. */
export async function uploadAt(
  device: GPUDevice,
  label: string,
  data: Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>,
  elements: number,
): Promise<{ buffer: GPUBuffer; byteOffset: number; byteLength: number }> {
  const size = data.BYTES_PER_ELEMENT;
  const around =
    data instanceof Float32Array ? new Float32Array(data.length + 2 * elements).fill(Number.NaN) : undefined;
  const whole = around ?? new Uint16Array(data.length + 2 * elements).fill(0x7fff);
  whole.set(data, elements);
  return { buffer: await upload(device, label, whole), byteOffset: elements * size, byteLength: data.byteLength };
}

/** Reads a whole buffer (or its first `count` numbers) as float32. */
export const readFloats = async (device: GPUDevice, buffer: GPUBuffer, count: number): Promise<Float32Array> =>
  new Float32Array(await read(device, { buffer, byteLength: count * 4 }));

/** A zeroed float32 buffer. */
export const zeros = (device: GPUDevice, label: string, count: number): Promise<GPUBuffer> =>
  allocate(device, { label, byteLength: count * 4 });

/** Runs what `encode` encodes, and submits it. */
export function submit(device: GPUDevice, encode: (encoder: GPUCommandEncoder) => void): void {
  const encoder = device.createCommandEncoder();
  encode(encoder);
  device.queue.submit([encoder.finish()]);
}

/**
 * The tolerance rule: the largest error against the oracle is at most twice that of the plain same-precision result (plus
 * `floor` ulps of the largest number, for the few cases where plain happens to be exact).
 * @throws {Error} with both errors; NaN never passes.
 */
export function expectWithinRule(
  name: string,
  got: ArrayLike<number>,
  oracle: ArrayLike<number>,
  plain: ArrayLike<number>,
  floor = 2,
): void {
  if (got.length !== oracle.length) throw new Error(`${name}: ${got.length} numbers, expected ${oracle.length}`);
  let error = 0;
  let allowed = 0;
  let largest = 0;
  for (let i = 0; i < oracle.length; i++) {
    const difference = Math.abs(got[i]! - oracle[i]!);
    if (!(difference <= error)) error = difference;
    allowed = Math.max(allowed, Math.abs(plain[i]! - oracle[i]!));
    largest = Math.max(largest, Math.abs(oracle[i]!));
  }
  const limit = 2 * allowed + floor * largest * 2 ** -24;
  if (!(error <= limit))
    throw new Error(`${name}: error ${error.toExponential(2)} exceeds ${limit.toExponential(2)} (largest ${largest})`);
}
