/** onnxruntime-web on its native WebGPU execution provider: a model of one fused attention node. */
import type { AttentionCase } from "../../../test/cases.ts";
import { attentionInputs, pickRows } from "../../attention-oracle.ts";
import { multiHeadAttentionModel } from "../../onnx/attention-model.ts";
import { groupQueryAttentionModel } from "../../onnx/group-query-attention-model.ts";
import {
  type AttentionJob,
  type AttentionQuestion,
  CannotAskError,
  type Contender,
  type Prepared,
  plainMask,
} from "../contender.ts";
import type { ModelJob } from "../model-cases.ts";

/** What is used of the package's tensors. */
export interface OrtTensor {
  dims: readonly number[];
  getData(): Promise<Float32Array>;
  dispose(): void;
}

/** What is used of a session. */
export interface OrtSession {
  /** `fetches`: outputs that go to a tensor given here; null: to a new one. */
  run(feeds: Record<string, OrtTensor>, fetches?: Record<string, OrtTensor | null>): Promise<Record<string, OrtTensor>>;
  release(): Promise<void>;
}

/** What is used of the package. */
export interface OrtPackage {
  env: { wasm: { numThreads: number; wasmPaths: string }; webgpu: { device: Promise<GPUDevice> } };
  InferenceSession: { create(model: Uint8Array, options: object): Promise<OrtSession> };
  Tensor: {
    new (type: string, data: ArrayBufferView | readonly bigint[], dims: readonly number[]): OrtTensor;
    fromGpuBuffer(buffer: GPUBuffer, options: { dataType: string; dims: readonly number[] }): OrtTensor;
  };
}

const FOLDER = "/peers/onnxruntime-web/dist/";
/** Its fused kernel shuffles lanes 0-7, so that smaller subgroups give wrong results. */
const SUBGROUP_SIZE_NEEDED = 8;
/** Everything on the GPU: outputs stay there, as inputs do. */
const SESSION_OPTIONS = { executionProviders: ["webgpu"], preferredOutputLocation: "gpu-buffer" };

/** Has adapters and devices of this page say that they have no subgroups. */
function hideSubgroups(): void {
  for (const prototype of [GPUAdapter.prototype, GPUDevice.prototype]) {
    const { get } = Object.getOwnPropertyDescriptor(prototype, "features")!;
    Object.defineProperty(prototype, "features", {
      configurable: true,
      get: function (this: GPUAdapter | GPUDevice) {
        return new Set([...(get!.call(this) as GPUSupportedFeatures)].filter((feature) => feature !== "subgroups"));
      },
    });
  }
}

let loaded: OrtPackage | undefined;
let isHidden = false;

/** The package, loaded once, with subgroups hidden where it would be wrong with them. */
export async function loadOrt(): Promise<OrtPackage> {
  if (loaded) return loaded;
  const info = (await navigator.gpu.requestAdapter())?.info;
  isHidden = (info?.subgroupMinSize ?? 0) < SUBGROUP_SIZE_NEEDED;
  if (isHidden) hideSubgroups();
  const url = `${FOLDER}ort.webgpu.bundle.min.mjs`;
  const ort = (await import(/* @vite-ignore */ url)) as OrtPackage;
  // One thread of WebAssembly: nothing of what is measured runs there.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = FOLDER;
  return (loaded = ort);
}

/** A session on the WebGPU provider. */
export async function createOrtSession(model: Uint8Array): Promise<OrtSession> {
  return (await loadOrt()).InferenceSession.create(model, SESSION_OPTIONS);
}

/** A tensor on onnxruntime's own device. The caller destroys the buffer. */
export async function ortGpuTensor(
  device: GPUDevice,
  label: string,
  data: Float32Array<ArrayBuffer>,
  dims: readonly number[],
): Promise<{ tensor: OrtTensor; buffer: GPUBuffer }> {
  const buffer = device.createBuffer({
    ...{ label, size: data.byteLength },
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
  });
  device.queue.writeBuffer(buffer, 0, data);
  const { Tensor } = await loadOrt();
  return { tensor: Tensor.fromGpuBuffer(buffer, { dataType: "float32", dims }), buffer };
}

/** Tokens `[B, S, K, D]` as a cache `[B, K, S, D]`. */
function headsFirst(tokens: Float32Array<ArrayBuffer>, batch: number, kvHeads: number, headDim: number) {
  const cache = new Float32Array(tokens.length);
  const kvSeqLen = tokens.length / (batch * kvHeads * headDim);
  for (let b = 0; b < batch; b++)
    for (let s = 0; s < kvSeqLen; s++)
      for (let h = 0; h < kvHeads; h++) {
        const from = ((b * kvSeqLen + s) * kvHeads + h) * headDim;
        cache.set(tokens.subarray(from, from + headDim), ((b * kvHeads + h) * kvSeqLen + s) * headDim);
      }
  return cache;
}

/** A session's inputs, and the outputs that lie in buffers of ours (null: where it likes). */
interface Bound {
  implementation: string;
  session: OrtSession;
  feeds: Record<string, OrtTensor>;
  fetches: Record<string, OrtTensor | null>;
  buffers: GPUBuffer[];
}

/** com.microsoft.MultiHeadAttention: masks none or causal, as many key as query heads. */
async function bindMultiHead(device: GPUDevice, shape: AttentionCase, isCausal: boolean): Promise<Bound> {
  const { batch, seqLen, kvSeqLen, heads, headDim, scale } = shape;
  const inputs = attentionInputs(shape);
  const session = await createOrtSession(multiHeadAttentionModel({ heads, headDim, isCausal, scale }));
  const tensorOf = (name: "query" | "key" | "value", tokens: number) =>
    ortGpuTensor(device, name, inputs[name], [batch, tokens, heads * headDim]);
  const query = await tensorOf("query", seqLen);
  const key = await tensorOf("key", kvSeqLen);
  const value = await tensorOf("value", kvSeqLen);
  return {
    implementation: "MultiHeadAttention",
    session,
    feeds: { query: query.tensor, key: key.tensor, value: value.tensor },
    fetches: { output: null },
    buffers: [query.buffer, key.buffer, value.buffer],
  };
}

/** com.microsoft.GroupQueryAttention: causal up to the newest key, which is how onnxruntime runs language models. */
async function bindGroupQuery(device: GPUDevice, shape: AttentionCase): Promise<Bound> {
  const { batch, seqLen, kvSeqLen, heads, kvHeads, headDim, scale, softcap, window } = shape;
  const inputs = attentionInputs(shape);
  const session = await createOrtSession(groupQueryAttentionModel({ heads, kvHeads, headDim, scale, softcap, window }));
  // The newest tokens are given apart, and written to the end of the cache, where they are already: every run is the same.
  const newest = (tokens: Float32Array<ArrayBuffer>) => {
    const size = kvHeads * headDim;
    const list = new Float32Array(batch * seqLen * size);
    for (let b = 0; b < batch; b++)
      list.set(tokens.subarray(((b + 1) * kvSeqLen - seqLen) * size, (b + 1) * kvSeqLen * size), b * seqLen * size);
    return list;
  };
  const query = await ortGpuTensor(device, "query", inputs.query, [batch, seqLen, heads * headDim]);
  const [key, value] = [
    await ortGpuTensor(device, "key", newest(inputs.key), [batch, seqLen, kvHeads * headDim]),
    await ortGpuTensor(device, "value", newest(inputs.value), [batch, seqLen, kvHeads * headDim]),
  ];
  const cacheDims = [batch, kvHeads, kvSeqLen, headDim];
  const [keys, values] = [
    await ortGpuTensor(device, "past key", headsFirst(inputs.key, batch, kvHeads, headDim), cacheDims),
    await ortGpuTensor(device, "past value", headsFirst(inputs.value, batch, kvHeads, headDim), cacheDims),
  ];
  const { Tensor } = await loadOrt();
  return {
    implementation: "GroupQueryAttention",
    session,
    feeds: {
      ...{ query: query.tensor, key: key.tensor, value: value.tensor, pastKey: keys.tensor, pastValue: values.tensor },
      lastKey: new Tensor("int32", new Int32Array(batch).fill(kvSeqLen - 1), [batch]),
      keyCount: new Tensor("int32", new Int32Array([kvSeqLen]), [1]),
    },
    fetches: { output: null, presentKey: keys.tensor, presentValue: values.tensor },
    buffers: [query, key, value, keys, values].map(({ buffer }) => buffer),
  };
}

/** MultiHeadAttention where it can be asked, else GroupQueryAttention. @throws {CannotAskError} where neither can. */
async function bind(device: GPUDevice, { shape, operator }: AttentionJob): Promise<Bound> {
  const { seqLen, kvSeqLen, heads, kvHeads, headDim, valueDim = headDim, softcap, window, queryStart = 0 } = shape;
  if (valueDim !== headDim)
    throw new CannotAskError("MultiHeadAttention's model has one head size for keys and values");
  const isWindowed = window !== undefined && window < kvSeqLen;
  if (operator !== "GroupQueryAttention" && kvHeads === heads && !softcap && !isWindowed)
    return bindMultiHead(device, shape, plainMask(shape, "MultiHeadAttention") === "causal");
  const isNewest = queryStart + seqLen === kvSeqLen;
  if (!shape.isCausal || !isNewest || (shape.causalBlockSize ?? 1) > 1)
    throw new CannotAskError(
      "GroupQueryAttention is causal, up to the newest key; MultiHeadAttention has no softcap, window or shared key heads",
    );
  return bindGroupQuery(device, shape);
}

async function prepareAttention(device: GPUDevice, job: AttentionJob): Promise<Prepared> {
  const { batch, heads, headDim, valueDim = headDim } = job.shape;
  const { implementation, session, feeds, fetches, buffers } = await bind(device, job);
  let output: OrtTensor | undefined;
  return {
    implementation: `${implementation}${isHidden ? ", subgroups hidden" : ""}`,
    run: async (count) => {
      for (let index = 0; index < count; index++) {
        output?.dispose();
        output = (await session.run(feeds, fetches)).output!;
        await device.queue.onSubmittedWorkDone();
      }
    },
    answer: async (question) => {
      const all = await output!.getData();
      return Array.from(pickRows(all, batch, heads * valueDim, (question as AttentionQuestion).rows));
    },
    release: async () => {
      output?.dispose();
      await session.release();
      for (const buffer of buffers) buffer.destroy();
    },
  };
}

/** onnxruntime-web. */
export const contender: Contender = {
  open: async () => {
    const ort = await loadOrt();
    // Its device stands once a session has been made, and goes with the last one: this one is never released.
    await createOrtSession(multiHeadAttentionModel({ heads: 1, headDim: 4, isCausal: false }));
    return ort.env.webgpu.device;
  },
  kinds: {
    attention: prepareAttention,
    "model-prefill": async (device, job: ModelJob) =>
      (await import("./onnxruntime-web-model.ts")).prepareModelPrefill(device, job),
    "model-decode": async (device, job: ModelJob) =>
      (await import("./onnxruntime-web-model.ts")).prepareModelDecode(device, job),
  },
};
