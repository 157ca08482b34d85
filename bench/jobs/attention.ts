/** A named attention case on the device: time in turn with the FMA peak, bytes from the ledger, error against the oracle. */
import {
  type Attention,
  type AttentionDesign,
  type AttentionKind,
  type AttentionTensors,
  allocateAll,
  createAttention,
  createFmaProbe,
  ledgerOf,
  read,
  release,
  write,
} from "../../src/index.ts";
import { referenceAttention } from "../../src/reference/attention.ts";
import { type AttentionCase, attentionFlops } from "../../test/cases.ts";
import { normals } from "../random.ts";
import type { BenchJob, BenchResult } from "../result-types.ts";
import { timeInTurn } from "../timing.ts";

/** One way to compute a case. */
export interface Implementation {
  kind: AttentionKind;
  design: AttentionDesign;
}

/** Rows of the query that are checked against the oracle in a large case: the first, the last, and some between. */
const ORACLE_ROWS = 24;

interface Inputs {
  query: Float32Array<ArrayBuffer>;
  key: Float32Array<ArrayBuffer>;
  value: Float32Array<ArrayBuffer>;
}

function inputsOf(shape: AttentionCase): Inputs {
  const { batch, seqLen, kvSeqLen, heads, kvHeads, headDim, valueDim = headDim } = shape;
  return {
    query: normals(batch * seqLen * heads * headDim, 1),
    key: normals(batch * kvSeqLen * kvHeads * headDim, 2),
    value: normals(batch * kvSeqLen * kvHeads * valueDim, 3),
  };
}

/** Rows spread evenly from the first to the last. */
export function oracleRows(seqLen: number, most = ORACLE_ROWS): number[] {
  if (seqLen <= most) return Array.from({ length: seqLen }, (_, row) => row);
  return Array.from({ length: most }, (_, index) => Math.round((index * (seqLen - 1)) / (most - 1)));
}

/** Largest difference of the chosen query rows from the oracle; layout bthd, which bench cases have. */
function largestError(shape: AttentionCase, inputs: Inputs, output: Float32Array, rows: readonly number[]): number {
  const { batch, seqLen, kvSeqLen, heads, kvHeads, headDim, valueDim = headDim, queryStart = 0 } = shape;
  const rowSize = heads * headDim;
  const query = new Float32Array(batch * rows.length * rowSize);
  for (let b = 0; b < batch; b++)
    rows.forEach((row, index) => {
      const from = (b * seqLen + row) * rowSize;
      query.set(inputs.query.subarray(from, from + rowSize), (b * rows.length + index) * rowSize);
    });
  const { scale, softcap, isCausal, causalBlockSize, window } = shape;
  const expected = referenceAttention(query, inputs.key, inputs.value, {
    ...{ batch, seqLen: rows.length, kvSeqLen, heads, kvHeads, headDim, valueDim },
    ...{ scale, softcap, isCausal, causalBlockSize, window },
    queryPosition: (_, t) => queryStart + rows[t]!,
  }).output;
  const outputRow = heads * valueDim;
  let largest = 0;
  for (let b = 0; b < batch; b++)
    rows.forEach((row, index) => {
      for (let e = 0; e < outputRow; e++) {
        const got = output[(b * seqLen + row) * outputRow + e]!;
        const difference = Math.abs(got - expected[(b * rows.length + index) * outputRow + e]!);
        // Math.max keeps NaN: it must not pass for exact.
        largest = Math.max(largest, difference);
      }
    });
  return largest;
}

/** Whether the bench can make this case's inputs: plain f32 tensors in the layout that the error check reads. */
export const isBenchable = (shape: AttentionCase): boolean =>
  shape.dtype === "f32" &&
  (shape.layout ?? "bthd") === "bthd" &&
  (shape.mask ?? "none") === "none" &&
  !shape.hasSegments &&
  !shape.hasKvLengths &&
  !shape.hasSinks;

/** Measures one case with each implementation. @throws {GpuMemoryError} where the case does not fit. */
export async function measureAttention(
  device: GPUDevice,
  job: BenchJob,
  shape: AttentionCase,
  implementations: readonly Implementation[],
): Promise<BenchResult[]> {
  const { batch, seqLen, kvSeqLen, heads, kvHeads, headDim, valueDim = headDim, queryStart = 0 } = shape;
  const { scale, softcap, isCausal, causalBlockSize, window } = shape;
  const inputs = inputsOf(shape);
  const outputLength = batch * seqLen * heads * valueDim * 4;
  const byteLengths = [inputs.query.byteLength, inputs.key.byteLength, inputs.value.byteLength, outputLength];
  const labels = ["query", "key", "value", "output"];
  const buffers = await allocateAll(
    device,
    byteLengths.map((byteLength, index) => ({ label: `bench ${labels[index]}`, byteLength })),
  );
  const [query, key, value, output] = buffers as [GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer];
  write(device, query, 0, inputs.query);
  write(device, key, 0, inputs.key);
  write(device, value, 0, inputs.value);
  const tensors: AttentionTensors = {
    ...{ query, key, value, output, batch, seqLen, kvSeqLen },
    queryPositions: { start: queryStart },
  };
  const tensorBytes = byteLengths.reduce((sum, bytes) => sum + bytes, 0);
  const probe = await createFmaProbe(device);
  const results: BenchResult[] = [];
  try {
    for (const { kind, design } of implementations) {
      const options = { heads, kvHeads, headDim, valueDim, scale, softcap, isCausal, causalBlockSize, window };
      const create = () => createAttention(device, { ...options, kind, design });
      // Once for nothing: what a device makes only once (uniforms, pipelines) is no cost of this case.
      (await runOnce(device, await create(), tensors)).destroy();
      const ledger = ledgerOf(device);
      const heldBytes = ledger.total.bytes;
      ledger.resetPeaks();
      const attention = await runOnce(device, await create(), tensors);
      try {
        const extraBytes = ledger.total.peakBytes - heldBytes;
        const times = await timeInTurn(
          device,
          [
            { name: "case", encode: (encoder) => attention.encode(encoder, tensors) },
            { name: "peak", encode: (encoder) => probe.encode(encoder) },
          ],
          job,
        );
        const timeMs = times.get("case")!;
        const gflops = attentionFlops(shape) / timeMs.median / 1e6;
        const fmaPeakGflops = probe.flopCount / times.get("peak")!.median / 1e6;
        const rows = oracleRows(seqLen);
        const got = new Float32Array(await read(device, { buffer: output, byteLength: outputLength }));
        results.push({
          case: shape.name,
          group: "attention",
          implementation: design === "auto" ? kind : `${kind}, ${design}`,
          ...{ timeMs, seqLen, isCausal, gflops, fmaPeakGflops },
          peakShare: gflops / fmaPeakGflops,
          ...{ tensorBytes, extraBytes, extraShare: extraBytes / tensorBytes },
          maxError: largestError(shape, inputs, got, rows),
          errorRows: rows.length * batch,
        });
      } finally {
        attention.destroy();
      }
    }
  } finally {
    probe.destroy();
    for (const buffer of buffers) release(buffer);
  }
  return results;
}

async function runOnce(device: GPUDevice, attention: Attention, tensors: AttentionTensors): Promise<Attention> {
  const encoder = device.createCommandEncoder({ label: "bench warm-up" });
  attention.encode(encoder, tensors);
  device.queue.submit([encoder.finish()]);
  await device.queue.onSubmittedWorkDone();
  return attention;
}
