/** A named matmul on the device: time in turn with the peaks, error of some rows against the oracle. */
import { allocateAll, createMatmul, type Dtype, type MatmulDesign, read, release, write } from "../../src/index.ts";
import { referenceMatmul } from "../../src/reference/matmul.ts";
import { BYTES_PER_ELEMENT } from "../../src/shape.ts";
import type { MatmulCase } from "../../test/cases.ts";
import { pickRows, spreadRows } from "../attention-oracle.ts";
import { normals } from "../random.ts";
import type { BenchJob, BenchResult } from "../result-types.ts";
import { bytesOf, inDtype, largestDifference, numbersOf, toleranceOf, verdictOf } from "../tolerance.ts";
import { createPeaks } from "./beside-peaks.ts";
import { kernelsUsed } from "./kernels-used.ts";

/** Rows that are checked against the oracle. */
const ORACLE_ROWS = 8;

/** Measures one product, all tensors in `dtype`. @throws {GpuMemoryError | OptionError} where size or design do not fit. */
export async function measureMatmul(
  device: GPUDevice,
  job: BenchJob,
  shape: MatmulCase & { design?: MatmulDesign },
  dtype: Dtype,
): Promise<BenchResult[]> {
  const { name, rows, inFeatures, outFeatures, design = "auto" } = shape;
  const sizes = { inFeatures, outFeatures };
  const matmul = await createMatmul(device, { weightDtype: dtype, dtype, design });
  const inputValues = inDtype(normals(rows * inFeatures, 1), dtype);
  const weightValues = inDtype(normals(outFeatures * inFeatures, 2), dtype);
  const outputLength = rows * outFeatures * BYTES_PER_ELEMENT[dtype];
  const data = [bytesOf(inputValues, dtype), bytesOf(weightValues, dtype)];
  const byteLengths = [...data.map(({ byteLength }) => byteLength), outputLength];
  const buffers = await allocateAll(
    device,
    byteLengths.map((byteLength, index) => ({ label: `bench ${["input", "weight", "output"][index]}`, byteLength })),
  );
  const [input, weight, output] = buffers as [GPUBuffer, GPUBuffer, GPUBuffer];
  for (const [index, bytes] of data.entries()) write(device, buffers[index]!, 0, bytes);
  const tensors = { input, weight, output, rows, ...sizes };
  try {
    const peaks = await createPeaks(device, {
      flops: 2 * rows * inFeatures * outFeatures,
      ...(rows === 1 && { readBytes: byteLengths[0]! + byteLengths[1]! }),
    });
    try {
      const timed = await peaks.time(job, (encoder) => matmul.encode(encoder, tensors));
      const chosen = spreadRows(rows, ORACLE_ROWS);
      const call = {
        input: pickRows(inputValues, 1, inFeatures, chosen),
        weight: weightValues,
        rows: chosen.length,
        ...sizes,
      };
      const expected = referenceMatmul(call);
      const got = numbersOf(await read(device, { buffer: output, byteLength: outputLength }), dtype);
      const maxError = largestDifference(pickRows(got, 1, outFeatures, chosen), expected);
      return [
        {
          ...{ case: name, group: "matmul", dtype },
          implementation: design === "auto" ? "matmul" : `matmul, ${design}`,
          ...verdictOf(maxError, toleranceOf(expected, referenceMatmul(call, "f32"), dtype)),
          ...timed,
          tensorBytes: byteLengths.reduce((sum, bytes) => sum + bytes, 0),
          ...{ maxError, errorRows: chosen.length },
          kernels: kernelsUsed(device, (encoder) => matmul.encode(encoder, tensors)),
        },
      ];
    } finally {
      peaks.destroy();
    }
  } finally {
    for (const buffer of buffers) release(buffer);
  }
}
