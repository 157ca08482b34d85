/** Weights onto the GPU: one tensor at a time, piece by piece, so that a model is never in memory twice. */
import { OptionError } from "../errors.ts";
import { allocate, release, write } from "../gpu/buffers.ts";
import { describeAdapter } from "../gpu/device.ts";
import { lossSignal } from "../gpu/device-loss.ts";
import { BYTES_PER_ELEMENT, elementCount, expectOneOf, type WeightDtype } from "../shape.ts";
import type { ModelConfig } from "./config.ts";
import { convertElements } from "./convert.ts";
import { matchTensors, readTensorList, type StoredTensor } from "./safetensors.ts";
import { storedByteLength, streamTensors } from "./tensor-stream.ts";
import type { LoadOptions, LoadProgress, ModelFiles } from "./types.ts";
import { weightDtypes } from "./weight-dtypes.ts";

/** A tensor on the GPU. Matrices are `[out, in]`, rows end to end. */
export interface WeightTensor {
  /** Sized up to a multiple of 4 bytes, 16 at least. */
  buffer: GPUBuffer;
  dtype: WeightDtype;
  shape: readonly number[];
}

/** Tensors by Hugging Face's names ("model.layers.3.mlp.up_proj.weight"). */
export type Weights = Map<string, WeightTensor>;

/** What {@link loadWeights} takes beside device, files and config. */
export interface LoadWeightsOptions {
  onProgress?: (progress: LoadProgress) => void;
  signal?: AbortSignal;
  /** Type on the GPU; default "auto": see {@link weightDtypes}. */
  weightDtype?: LoadOptions["weightDtype"];
  /** Bytes of one read from the files. Default 8 MiB. */
  readByteLength?: number;
}

/** Bytes handed to the queue before waiting for the GPU: writes are staged, and staging a whole model is a second copy. */
const STAGED_BYTE_LENGTH = 64 * 2 ** 20;

/** Gives back the buffers of every tensor. Doing it twice does no harm. */
export function releaseWeights(weights: Weights): void {
  for (const weight of weights.values()) release(weight.buffer);
  weights.clear();
}

/** Fills tensors given piece by piece; on an error or abort everything that was allocated is given back. */
async function fill(
  device: GPUDevice,
  work: (weights: Weights, flush: (bytes: number) => Promise<void>) => Promise<void>,
): Promise<Weights> {
  const weights: Weights = new Map();
  const lost = lossSignal(device);
  let staged = 0;
  const flush = async (byteLength: number) => {
    staged += byteLength;
    if (staged < STAGED_BYTE_LENGTH && byteLength > 0) return;
    staged = 0;
    await device.queue.onSubmittedWorkDone();
    // Writes to a lost device vanish without a word.
    lost.throwIfAborted();
  };
  try {
    await work(weights, flush);
    // A device that was lost early tells so here at the latest.
    await flush(0);
    return weights;
  } catch (error) {
    releaseWeights(weights);
    // Whatever failed on a lost device failed because of that.
    lost.throwIfAborted();
    throw error;
  }
}

/** A tensor's buffer, empty yet. @throws {GpuMemoryError} */
export async function allocateWeight(
  device: GPUDevice,
  name: string,
  shape: readonly number[],
  dtype: WeightDtype,
): Promise<WeightTensor> {
  const byteLength = elementCount(shape) * BYTES_PER_ELEMENT[dtype];
  return { buffer: await allocate(device, { label: name, byteLength }), dtype, shape };
}

/**
 * Reads, checks and uploads every tensor of a model. Headers are checked against `config` before a byte of weights is read.
 * @returns Tensors by name; give them back with {@link releaseWeights}.
 * @throws {ModelFormatError} for a broken header or index, missing or extra tensors, other shapes than config.json says.
 * @throws {UnsupportedModelError} for element types other than F32, F16 and BF16.
 * @throws {ModelSourceError} where a file cannot be read whole. @throws {GpuMemoryError} @throws {DeviceLostError}
 * Abort rejects with `signal.reason`. After any failure nothing is held.
 */
export async function loadWeights(
  device: GPUDevice,
  files: ModelFiles,
  config: ModelConfig,
  options: LoadWeightsOptions = {},
): Promise<Weights> {
  const { onProgress, signal } = options;
  const weightDtype = expectOneOf("loadWeights", "weightDtype", options.weightDtype ?? "auto", [
    "auto",
    "f32",
    "f16",
    "bf16",
  ]);
  signal?.throwIfAborted();
  const tensors = matchTensors(config, await readTensorList(files, signal));
  const totalBytes = tensors.reduce((sum, tensor) => sum + storedByteLength(tensor), 0);
  const dtypes = weightDtypes(tensors, weightDtype, describeAdapter(device));
  let loadedBytes = 0;
  const report = (tensor: StoredTensor) =>
    onProgress?.({ phase: "weights", message: `Loading weights: ${tensor.name}`, loadedBytes, totalBytes });
  return fill(device, async (weights, flush) => {
    const pieces = streamTensors(files, tensors, { signal, readByteLength: options.readByteLength });
    for await (const { tensor, byteOffset, bytes } of pieces) {
      const dtype = dtypes.get(tensor.name)!;
      if (byteOffset === 0) {
        weights.set(tensor.name, await allocateWeight(device, tensor.name, tensor.shape, dtype));
        signal?.throwIfAborted();
      }
      const data = convertElements(tensor.name, bytes, tensor.dtype, dtype);
      const target = (byteOffset / BYTES_PER_ELEMENT[tensor.dtype]) * BYTES_PER_ELEMENT[dtype];
      write(device, weights.get(tensor.name)!.buffer, target, data);
      loadedBytes += bytes.byteLength;
      report(tensor);
      await flush(data.byteLength);
      signal?.throwIfAborted();
    }
  });
}

/**
 * Uploads tensors that are made rather than read (presets): `make` fills one slice of one tensor at a time.
 * @param make f32 values of elements `[start, start + values.length)` of the tensor, written into `values`.
 * @throws {GpuMemoryError} @throws {DeviceLostError} Abort rejects with `signal.reason`. After any failure nothing is held.
 */
export async function makeWeights(
  device: GPUDevice,
  tensors: readonly { name: string; shape: readonly number[] }[],
  dtype: WeightDtype,
  make: (name: string, shape: readonly number[], start: number, values: Float32Array) => void,
  options: { onProgress?: (progress: LoadProgress) => void; signal?: AbortSignal } = {},
): Promise<Weights> {
  const { onProgress, signal } = options;
  const sizeOf = (shape: readonly number[]) => elementCount(shape) * BYTES_PER_ELEMENT[dtype];
  const totalBytes = tensors.reduce((sum, tensor) => sum + sizeOf(tensor.shape), 0);
  const values = new Float32Array(2 ** 20);
  let loadedBytes = 0;
  return fill(device, async (weights, flush) => {
    for (const { name, shape } of tensors) {
      if (weights.has(name)) throw new OptionError(`makeWeights: expected every name once, got "${name}" twice`);
      const weight = await allocateWeight(device, name, shape, dtype);
      weights.set(name, weight);
      const count = elementCount(shape);
      for (let start = 0; start < count; start += values.length) {
        signal?.throwIfAborted();
        const slice = values.subarray(0, Math.min(values.length, count - start));
        make(name, shape, start, slice);
        const bytes = new Uint8Array(slice.buffer, slice.byteOffset, slice.byteLength);
        const data = convertElements(name, bytes, "f32", dtype);
        write(device, weight.buffer, start * BYTES_PER_ELEMENT[dtype], data);
        loadedBytes += data.byteLength;
        onProgress?.({ phase: "weights", message: `Making weights: ${name}`, loadedBytes, totalBytes });
        await flush(data.byteLength);
      }
    }
  });
}
