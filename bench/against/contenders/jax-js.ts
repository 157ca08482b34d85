/** jax-js: `jit(nn.dotProductAttention)` on its WebGPU backend. */
import { attentionInputs, pickRows } from "../../attention-oracle.ts";
import {
  type AttentionJob,
  type AttentionQuestion,
  CannotAskError,
  type Contender,
  type Prepared,
  plainMask,
} from "../contender.ts";

interface JaxArray {
  /** One more reference: every use consumes one. */
  readonly ref: JaxArray;
  data(): Promise<Float32Array>;
  dispose(): void;
}

type AttentionFunction = (query: JaxArray, key: JaxArray, value: JaxArray) => JaxArray;

interface Jax {
  init(...backends: string[]): Promise<string[]>;
  defaultDevice(name: string): string;
  getWebGPUDevice(): GPUDevice;
  blockUntilReady(array: JaxArray): Promise<JaxArray>;
  jit(f: AttentionFunction): AttentionFunction & { dispose?(): void };
  nn: {
    dotProductAttention(
      query: JaxArray,
      key: JaxArray,
      value: JaxArray,
      options: { scale?: number; isCausal?: boolean; localWindowSize?: [number, number] },
    ): JaxArray;
  };
  numpy: { array(data: Float32Array, options: { shape: number[] }): JaxArray };
}

let jax: Jax | undefined;

async function load(): Promise<Jax> {
  const url = "/peers/@jax-js/jax/dist/index.js";
  return (jax ??= (await import(/* @vite-ignore */ url)) as Jax);
}

async function prepareAttention(_device: GPUDevice, { shape }: AttentionJob): Promise<Prepared> {
  const { batch, seqLen, kvSeqLen, heads, kvHeads, headDim, valueDim = headDim, scale, softcap, window } = shape;
  const name = "nn.dotProductAttention";
  if (softcap) throw new CannotAskError(`${name} has no softcap`);
  if (valueDim !== headDim) throw new CannotAskError(`${name} wants keys and values of one shape`);
  const { blockUntilReady, jit, nn, numpy } = await load();
  const isCausal = plainMask({ ...shape, window: undefined }, name) === "causal";
  const isWindowed = window !== undefined && window < kvSeqLen;
  if (isWindowed && seqLen !== kvSeqLen) throw new CannotAskError(`${name} counts its window from position 0`);
  const options = {
    ...{ scale, isCausal },
    ...(isWindowed && { localWindowSize: [window - 1, isCausal ? 0 : window - 1] as [number, number] }),
  };
  const inputs = attentionInputs(shape);
  const query = numpy.array(inputs.query, { shape: [batch, seqLen, heads, headDim] });
  const key = numpy.array(inputs.key, { shape: [batch, kvSeqLen, kvHeads, headDim] });
  const value = numpy.array(inputs.value, { shape: [batch, kvSeqLen, kvHeads, headDim] });
  const attention = jit((q, k, v) => nn.dotProductAttention(q, k, v, options));
  let output: JaxArray | undefined;
  return {
    implementation: "jit(nn.dotProductAttention)",
    run: async (count) => {
      for (let index = 0; index < count; index++) {
        output?.dispose();
        output = attention(query.ref, key.ref, value.ref);
        // Lazy: what nobody waits for might never run.
        await blockUntilReady(output);
      }
    },
    answer: async (question) => {
      const all = await output!.ref.data();
      return Array.from(pickRows(all, batch, heads * valueDim, (question as AttentionQuestion).rows));
    },
    release: () => {
      for (const array of [output, query, key, value]) array?.dispose();
      attention.dispose?.();
    },
  };
}

/** jax-js. */
export const contender: Contender = {
  open: async () => {
    const { init, defaultDevice, getWebGPUDevice } = await load();
    await init("webgpu");
    defaultDevice("webgpu");
    return getWebGPUDevice();
  },
  kinds: { attention: prepareAttention },
};
