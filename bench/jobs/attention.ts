/** A named attention case on the device: time in turn with the peaks, bytes from the ledger, error against the oracle. */
import {
  type Attention,
  type AttentionDesign,
  type AttentionKind,
  type AttentionTensors,
  allocateAll,
  createAttention,
  ledgerOf,
  read,
  release,
  write,
} from "../../src/index.ts";
import { BYTES_PER_ELEMENT } from "../../src/shape.ts";
import { type AttentionCase, attentionFlops } from "../../test/cases.ts";
import { allowedError, attentionInputs, expectedRows, pickRows, spreadRows } from "../attention-oracle.ts";
import type { BenchJob, BenchResult } from "../result-types.ts";
import { bytesOf, largestDifference, numbersOf, verdictOf } from "../tolerance.ts";
import { createPeaks } from "./beside-peaks.ts";
import { kernelsUsed } from "./kernels-used.ts";

/** One way to compute a case. */
export interface Implementation {
  kind: AttentionKind;
  design: AttentionDesign;
  /** A candidate of the tuner's list, forced; default: the adapter's choice. */
  candidate?: string;
}

/** Whether the bench can make this case's inputs: plain tensors in the layout that the error check reads. */
export const isBenchable = (shape: AttentionCase): boolean =>
  (shape.layout ?? "bthd") === "bthd" &&
  (shape.mask ?? "none") === "none" &&
  !shape.hasSegments &&
  !shape.hasKvLengths &&
  !shape.hasSinks;

/** One query row reads every key and value once and computes little: its yardstick is the read bandwidth. */
const isDecode = (shape: AttentionCase) => shape.seqLen === 1;

/** Measures one case, in the shape's dtype, with each implementation. @throws {GpuMemoryError} where it does not fit. */
export async function measureAttention(
  device: GPUDevice,
  job: BenchJob,
  shape: AttentionCase,
  implementations: readonly Implementation[],
): Promise<BenchResult[]> {
  const { batch, seqLen, kvSeqLen, heads, kvHeads, headDim, valueDim = headDim, queryStart = 0, dtype } = shape;
  const { scale, softcap, isCausal, causalBlockSize, window } = shape;
  const inputs = attentionInputs(shape);
  const data = [inputs.query, inputs.key, inputs.value].map((values) => bytesOf(values, dtype));
  const outputLength = batch * seqLen * heads * valueDim * BYTES_PER_ELEMENT[dtype];
  const byteLengths = [...data.map(({ byteLength }) => byteLength), outputLength];
  const labels = ["query", "key", "value", "output"];
  // What the device holds for all of its kernels (uniforms) belongs to every peak.
  const sharedBytes = ledgerOf(device).total.bytes;
  const buffers = await allocateAll(
    device,
    byteLengths.map((byteLength, index) => ({ label: `bench ${labels[index]}`, byteLength })),
  );
  const [query, key, value, output] = buffers as [GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer];
  for (const [index, bytes] of data.entries()) write(device, buffers[index]!, 0, bytes);
  const tensors: AttentionTensors = {
    ...{ query, key, value, output, batch, seqLen, kvSeqLen },
    queryPositions: { start: queryStart },
  };
  const tensorBytes = byteLengths.reduce((sum, bytes) => sum + bytes, 0);
  const rows = spreadRows(seqLen);
  const expected = expectedRows(shape, inputs, rows);
  const allowed = allowedError(shape, inputs, rows, expected);
  const results: BenchResult[] = [];
  try {
    for (const { kind, design, candidate } of implementations) {
      const options = { heads, kvHeads, headDim, valueDim, dtype, scale, softcap, isCausal, causalBlockSize, window };
      const create = () => createAttention(device, { ...options, kind, design, candidate });
      // Once for nothing: what a device makes only once (uniforms, pipelines) is no cost of this case.
      (await runOnce(device, await create(), tensors)).destroy();
      const ledger = ledgerOf(device);
      const heldBytes = ledger.total.bytes;
      ledger.resetPeaks();
      const attention = await runOnce(device, await create(), tensors);
      const extraBytes = ledger.total.peakBytes - heldBytes;
      const peaks = await createPeaks(device, {
        flops: attentionFlops(shape),
        ...(isDecode(shape) && { readBytes: tensorBytes - outputLength }),
      });
      try {
        const timed = await peaks.time(job, (encoder) => attention.encode(encoder, tensors));
        const got = numbersOf(await read(device, { buffer: output, byteLength: outputLength }), dtype);
        const maxError = largestDifference(pickRows(got, batch, heads * valueDim, rows), expected);
        results.push({
          ...{ case: shape.name, group: "attention", dtype },
          implementation: [kind, ...(design === "auto" ? [] : [design]), ...(candidate ? [candidate] : [])].join(", "),
          ...verdictOf(maxError, allowed),
          ...timed,
          ...{ seqLen, isCausal, tensorBytes, extraBytes, extraShare: extraBytes / tensorBytes },
          peakBytes: sharedBytes + tensorBytes + extraBytes,
          ...{ maxError, errorRows: rows.length * batch },
          kernels: kernelsUsed(device, (encoder) => attention.encode(encoder, tensors)),
        });
      } finally {
        peaks.destroy();
        attention.destroy();
      }
    }
  } finally {
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
