/** Ringwise as one of the contenders, through its public API; and the FMA peak, which has a page for itself. */
import {
  type AttentionDesign,
  allocateAll,
  createAttention,
  createFmaProbe,
  createReadProbe,
  read,
  release,
  requestRingwiseDevice,
  write,
} from "../../../src/index.ts";
import { attentionInputs, pickRows } from "../../attention-oracle.ts";
import { kernelsUsed } from "../../jobs/kernels-used.ts";
import type { AttentionJob, AttentionQuestion, Contender, Prepared } from "../contender.ts";
import { prepareModelDecode, prepareModelPrefill } from "./ringwise-model.ts";

/** Submits `encode` and waits, `count` times. */
async function submit(device: GPUDevice, count: number, encode: (encoder: GPUCommandEncoder) => void): Promise<void> {
  for (let index = 0; index < count; index++) {
    const encoder = device.createCommandEncoder({ label: "bench against" });
    encode(encoder);
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
  }
}

async function prepareAttention(device: GPUDevice, { shape, operator = "auto" }: AttentionJob): Promise<Prepared> {
  const { batch, seqLen, kvSeqLen, heads, kvHeads, headDim, valueDim = headDim, queryStart = 0 } = shape;
  const { scale, softcap, isCausal, causalBlockSize, window } = shape;
  const inputs = attentionInputs(shape);
  const outputLength = batch * seqLen * heads * valueDim;
  const lists = [inputs.query, inputs.key, inputs.value];
  const buffers = await allocateAll(
    device,
    [...lists.map(({ byteLength }) => byteLength), 4 * outputLength].map((byteLength, index) => ({
      label: `bench against ${["query", "key", "value", "output"][index]}`,
      byteLength,
    })),
  );
  const [query, key, value, output] = buffers as [GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer];
  lists.forEach((list, index) => {
    write(device, buffers[index]!, 0, list);
  });
  const tensors = { query, key, value, output, batch, seqLen, kvSeqLen, queryPositions: { start: queryStart } };
  const design = operator as AttentionDesign;
  const options = { heads, kvHeads, headDim, valueDim, scale, softcap, isCausal, causalBlockSize, window, design };
  const attention = await createAttention(device, options);
  return {
    implementation: design === "auto" ? "flash" : `flash, ${design}`,
    kernels: kernelsUsed(device, (encoder) => attention.encode(encoder, tensors)),
    run: (count) => submit(device, count, (encoder) => attention.encode(encoder, tensors)),
    answer: async (question) => {
      const all = new Float32Array(await read(device, { buffer: output, byteLength: 4 * outputLength }));
      return Array.from(pickRows(all, batch, heads * valueDim, (question as AttentionQuestion).rows));
    },
    release: () => {
      attention.destroy();
      for (const buffer of buffers) release(buffer);
    },
  };
}

async function preparePeak(device: GPUDevice): Promise<Prepared> {
  const probe = await createFmaProbe(device);
  return {
    implementation: "multiply-adds",
    run: (count) => submit(device, count, (encoder) => probe.encode(encoder)),
    answer: async () => ({ flopCount: probe.flopCount }),
    release: () => probe.destroy(),
  };
}

/** Bytes that the read probe reads: more than the caches of a processor hold. */
const READ_BYTES = 64 * 2 ** 20;

async function prepareReadPeak(device: GPUDevice): Promise<Prepared> {
  const probe = await createReadProbe(device, READ_BYTES);
  return {
    implementation: probe.way,
    run: (count) => submit(device, count, (encoder) => probe.encode(encoder)),
    answer: async () => ({ byteLength: probe.byteLength }),
    release: () => probe.destroy(),
  };
}

/** Ringwise. */
export const contender: Contender = {
  open: () => requestRingwiseDevice(),
  kinds: {
    attention: prepareAttention,
    "fma-peak": preparePeak,
    "read-peak": prepareReadPeak,
    "model-prefill": prepareModelPrefill,
    "model-decode": prepareModelDecode,
  },
};
