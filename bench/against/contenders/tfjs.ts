/** TensorFlow.js on its WebGPU backend: it has no attention of its own, so matmul, softmax, matmul. */
import { attentionInputs, pickRows } from "../../attention-oracle.ts";
import type { AttentionJob, AttentionQuestion, Contender, Prepared } from "../contender.ts";

interface TfTensor {
  data(): Promise<Float32Array>;
  dispose(): void;
}

interface TfBackend {
  device: GPUDevice;
  queue: GPUQueue;
  endComputePassEncoder(): void;
  submitQueue(): void;
}

interface Tf {
  setBackend(name: string): Promise<boolean>;
  ready(): Promise<void>;
  backend(): TfBackend;
  tidy<T>(f: () => T): T;
  tensor(data: Float32Array, shape: readonly number[]): TfTensor;
  reshape(tensor: TfTensor, shape: readonly number[]): TfTensor;
  transpose(tensor: TfTensor, order: readonly number[]): TfTensor;
  matMul(a: TfTensor, b: TfTensor, transposeA: boolean, transposeB: boolean): TfTensor;
  mul(a: TfTensor, b: number): TfTensor;
  add(a: TfTensor, b: TfTensor): TfTensor;
  tanh(a: TfTensor): TfTensor;
  softmax(a: TfTensor): TfTensor;
}

/** Low enough to hide a score, and no infinity, which the backend's own guards do not expect. */
const HIDDEN = -1e30;

const tf = (): Tf => (globalThis as unknown as { tf: Tf }).tf;

/** The package's own bundles set the global `tf`; the backend's extends the core's. */
async function load(): Promise<void> {
  for (const file of ["tfjs-core/dist/tf-core.min.js", "tfjs-backend-webgpu/dist/tf-backend-webgpu.min.js"])
    await new Promise<void>((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `/peers/@tensorflow/${file}`;
      script.onload = () => resolve();
      script.onerror = () => reject(new Error(`tfjs: ${script.src} did not load`));
      document.head.append(script);
    });
}

/** Added to the scores `[1, T, S]`; undefined where every query sees every key. */
function maskOf({ shape }: AttentionJob): TfTensor | undefined {
  const { seqLen, kvSeqLen, isCausal, window = 0, causalBlockSize = 1, queryStart = 0 } = shape;
  const data = new Float32Array(seqLen * kvSeqLen);
  let isUsed = false;
  for (let t = 0; t < seqLen; t++) {
    const position = queryStart + t;
    const causalEnd = (Math.floor(position / causalBlockSize) + 1) * causalBlockSize;
    const end = isCausal ? causalEnd : window ? position + window : kvSeqLen;
    for (let s = 0; s < kvSeqLen; s++) {
      if (s < end && !(window && position - s >= window)) continue;
      data[t * kvSeqLen + s] = HIDDEN;
      isUsed = true;
    }
  }
  return isUsed ? tf().tensor(data, [1, seqLen, kvSeqLen]) : undefined;
}

async function prepareAttention(device: GPUDevice, job: AttentionJob): Promise<Prepared> {
  const { batch, seqLen, kvSeqLen, heads, kvHeads, headDim, valueDim = headDim, softcap } = job.shape;
  const { scale = 1 / Math.sqrt(headDim) } = job.shape;
  const { tidy, tensor, reshape, transpose, matMul, mul, add, tanh, softmax, backend } = tf();
  const inputs = attentionInputs(job.shape);
  const query = tensor(inputs.query, [batch, seqLen, heads, headDim]);
  const key = tensor(inputs.key, [batch, kvSeqLen, kvHeads, headDim]);
  const value = tensor(inputs.value, [batch, kvSeqLen, kvHeads, valueDim]);
  const mask = maskOf(job);
  // Query heads that share a K/V head lie side by side: as further rows of its matmul they share it without a copy.
  const groups = batch * kvHeads;
  const rows = (heads / kvHeads) * seqLen;
  const attend = () =>
    tidy(() => {
      const headsFirst = (tokens: TfTensor, shape: number[]) => reshape(transpose(tokens, [0, 2, 1, 3]), shape);
      const q = headsFirst(query, [groups, rows, headDim]);
      const k = headsFirst(key, [groups, kvSeqLen, headDim]);
      const v = headsFirst(value, [groups, kvSeqLen, valueDim]);
      let scores = mul(matMul(q, k, false, true), scale);
      if (softcap) scores = mul(tanh(mul(scores, 1 / softcap)), softcap);
      if (mask) scores = add(reshape(scores, [batch * heads, seqLen, kvSeqLen]), mask);
      const weights = softmax(reshape(scores, [groups, rows, kvSeqLen]));
      const sums = matMul(weights, v, false, false);
      return transpose(reshape(sums, [batch, heads, seqLen, valueDim]), [0, 2, 1, 3]);
    });
  const flush = () => {
    backend().endComputePassEncoder();
    backend().submitQueue();
  };
  let output: TfTensor | undefined;
  return {
    implementation: "matMul, softmax, matMul",
    run: async (count) => {
      for (let index = 0; index < count; index++) {
        output?.dispose();
        output = attend();
        flush();
        await device.queue.onSubmittedWorkDone();
      }
    },
    answer: async (question) => {
      const all = await output!.data();
      return Array.from(pickRows(all, batch, heads * valueDim, (question as AttentionQuestion).rows));
    },
    release: () => {
      for (const each of [output, mask, query, key, value]) each?.dispose();
    },
  };
}

/** TensorFlow.js. */
export const contender: Contender = {
  open: async () => {
    await load();
    await tf().setBackend("webgpu");
    await tf().ready();
    return tf().backend().device;
  },
  kinds: { attention: prepareAttention },
};
