/** The chunked MLP: share of the FMA peak, and peak bytes as the sequence grows: beyond its tensors they must stay flat. */
import { allocateAll, createMlp, type Dtype, ledgerOf, read, release, write } from "../../src/index.ts";
import { referenceActivation, referenceMatmul } from "../../src/reference/matmul.ts";
import { type ReferenceMlp, referenceMlp } from "../../src/reference/mlp.ts";
import { BYTES_PER_ELEMENT } from "../../src/shape.ts";
import { pickRows, spreadRows } from "../attention-oracle.ts";
import { normals } from "../random.ts";
import type { BenchJob, BenchResult } from "../result-types.ts";
import { bytesOf, inDtype, largestDifference, numbersOf, toleranceOf, verdictOf } from "../tolerance.ts";
import { createPeaks } from "./beside-peaks.ts";
import { kernelsUsed } from "./kernels-used.ts";

const HIDDEN_SIZE = 256;
const INTERMEDIATE_SIZE = 1024;
const CHUNK_SIZE = 256;
/** Multiplications and additions: gate, up and down. */
const FLOPS_PER_TOKEN = 2 * 3 * HIDDEN_SIZE * INTERMEDIATE_SIZE;
/** Tokens that are checked against the oracle. */
const ORACLE_ROWS = 8;

/** Lengths that are measured: from one chunk to sixty-four. */
export const MLP_LENGTHS = [256, 1024, 4096, 16_384] as const;

/** The rule of the project, for an MLP whose intermediate is held in the type, too. */
function mlpTolerance(call: ReferenceMlp, expected: ArrayLike<number>, dtype: Dtype): number {
  if (dtype === "f32") return toleranceOf(expected, referenceMlp(call, "f32"), dtype);
  const sizes = { rows: call.tokens, inFeatures: HIDDEN_SIZE, outFeatures: INTERMEDIATE_SIZE };
  const first = (weight: ArrayLike<number>) => referenceMatmul({ input: call.input, weight, ...sizes }, "f32");
  const up = first(call.up);
  const inner = Float32Array.from(first(call.gate!), (x, i) => referenceActivation(call.activation, x, "f32") * up[i]!);
  const second = { input: inDtype(inner, dtype), weight: call.down, rows: call.tokens };
  const plain = referenceMatmul({ ...second, inFeatures: INTERMEDIATE_SIZE, outFeatures: HIDDEN_SIZE }, "f32");
  return toleranceOf(expected, plain, dtype);
}

/** SwiGLU of `tokens` tokens: time, peak bytes beyond what the caller holds, error. @throws {GpuMemoryError} */
export async function measureMlp(
  device: GPUDevice,
  job: BenchJob,
  tokens: number,
  dtype: Dtype,
): Promise<BenchResult[]> {
  const shape = { hiddenSize: HIDDEN_SIZE, intermediateSize: INTERMEDIATE_SIZE, gated: true } as const;
  const weightLength = HIDDEN_SIZE * INTERMEDIATE_SIZE;
  // Weights as small as a trained model's: the intermediate of f16 has to stay within its range.
  const random = (count: number, seed: number, scale: number) =>
    inDtype(
      normals(count, seed).map((value) => value * scale),
      dtype,
    );
  const values = {
    input: random(tokens * HIDDEN_SIZE, 0, 1),
    gate: random(weightLength, 1, 1 / 16),
    up: random(weightLength, 2, 1 / 16),
    down: random(weightLength, 3, 1 / 32),
  };
  const outputLength = tokens * HIDDEN_SIZE * BYTES_PER_ELEMENT[dtype];
  const data = Object.values(values).map((list) => bytesOf(list, dtype));
  const byteLengths = [...data.map(({ byteLength }) => byteLength), outputLength];
  const labels = [...Object.keys(values), "output"];
  const buffers = await allocateAll(
    device,
    byteLengths.map((byteLength, index) => ({ label: `bench mlp ${labels[index]}`, byteLength })),
  );
  const [input, gate, up, down, output] = buffers as [GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer];
  for (const [index, bytes] of data.entries()) write(device, buffers[index]!, 0, bytes);
  const tensors = { input, output, gate, up, down, tokens };
  const create = () =>
    createMlp(device, { ...shape, mlpChunkSize: CHUNK_SIZE, activation: "silu", weightDtype: dtype, dtype });
  try {
    // Once for nothing: what a device makes only once (uniforms, pipelines) is no cost of this case.
    (await create()).destroy();
    const ledger = ledgerOf(device);
    const heldBytes = ledger.total.bytes;
    ledger.resetPeaks();
    const mlp = await create();
    const extraBytes = ledger.total.peakBytes - heldBytes;
    const peaks = await createPeaks(device, { flops: FLOPS_PER_TOKEN * tokens });
    try {
      const timed = await peaks.time(job, (encoder) => mlp.encode(encoder, tensors));
      const rows = spreadRows(tokens, ORACLE_ROWS);
      const call: ReferenceMlp = {
        ...{ ...values, ...shape, activation: "silu" as const, tokens: rows.length },
        input: pickRows(values.input, 1, HIDDEN_SIZE, rows),
      };
      const expected = referenceMlp(call);
      const got = numbersOf(await read(device, { buffer: output, byteLength: outputLength }), dtype);
      const maxError = largestDifference(pickRows(got, 1, HIDDEN_SIZE, rows), expected);
      const tensorBytes = byteLengths.reduce((sum, bytes) => sum + bytes, 0);
      return [
        {
          ...{ case: `mlp-${tokens}`, group: "memory", dtype, implementation: `SwiGLU, chunks of ${CHUNK_SIZE}` },
          ...verdictOf(maxError, mlpTolerance(call, expected, dtype)),
          ...timed,
          ...{ seqLen: tokens, tensorBytes, extraBytes, extraShare: extraBytes / tensorBytes },
          ...{ maxError, errorRows: rows.length },
          kernels: kernelsUsed(device, (encoder) => mlp.encode(encoder, tensors)),
        },
      ];
    } finally {
      peaks.destroy();
      mlp.destroy();
    }
  } finally {
    for (const buffer of buffers) release(buffer);
  }
}
