/** onnxruntime-web on its native WebGPU execution provider: a model of one com.microsoft.MultiHeadAttention. */
import { attentionInputs, pickRows } from "../../attention-oracle.ts";
import { multiHeadAttentionModel } from "../../onnx/attention-model.ts";
import {
  type AttentionJob,
  type AttentionQuestion,
  CannotAskError,
  type Contender,
  type Prepared,
  plainMask,
} from "../contender.ts";

/** What is used of the package's tensors. */
export interface OrtTensor {
  dims: readonly number[];
  getData(): Promise<Float32Array>;
  dispose(): void;
}

/** What is used of a session. */
export interface OrtSession {
  run(feeds: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>;
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

async function prepareAttention(device: GPUDevice, { shape }: AttentionJob): Promise<Prepared> {
  const { batch, seqLen, kvSeqLen, heads, kvHeads, headDim, valueDim = headDim, scale, softcap } = shape;
  const operator = "com.microsoft.MultiHeadAttention";
  if (kvHeads !== heads) throw new CannotAskError(`${operator} has as many key as query heads`);
  if (softcap) throw new CannotAskError(`${operator} has no softcap`);
  if (valueDim !== headDim) throw new CannotAskError(`the model has one head size for keys and values`);
  const isCausal = plainMask(shape, operator) === "causal";
  const inputs = attentionInputs(shape);
  const session = await createOrtSession(multiHeadAttentionModel({ heads, headDim, isCausal, scale }));
  const tensorOf = (name: "query" | "key" | "value", tokens: number) =>
    ortGpuTensor(device, name, inputs[name], [batch, tokens, heads * headDim]);
  const query = await tensorOf("query", seqLen);
  const key = await tensorOf("key", kvSeqLen);
  const value = await tensorOf("value", kvSeqLen);
  const feeds = { query: query.tensor, key: key.tensor, value: value.tensor };
  let output: OrtTensor | undefined;
  return {
    implementation: `MultiHeadAttention${isHidden ? ", subgroups hidden" : ""}`,
    run: async (count) => {
      for (let index = 0; index < count; index++) {
        output?.dispose();
        output = (await session.run(feeds)).output!;
      }
      await device.queue.onSubmittedWorkDone();
    },
    answer: async (question) => {
      const all = await output!.getData();
      return Array.from(pickRows(all, batch, heads * valueDim, (question as AttentionQuestion).rows));
    },
    release: async () => {
      output?.dispose();
      await session.release();
      for (const { buffer } of [query, key, value]) buffer.destroy();
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
  kinds: { attention: prepareAttention },
};
