/**
 * Whole models on onnxruntime-web: the graph of bench/onnx/llama-model.ts with the same weights. Keys and values stay in GPU
 * buffers that are past and present at once, so that nothing is copied; the choice of the greedy token reads the logits.
 */

import { cacheNames, llamaModel, weightFile } from "../../onnx/llama-model.ts";
import { llamaShape, type ModelNumbers, presetNumbers, urlNumbers } from "../../onnx/model-numbers.ts";
import type { Prepared } from "../contender.ts";
import { type BenchModel, benchPrompt, type ModelJob, type ModelQuestion } from "../model-cases.ts";
import { loadOrt, type OrtPackage, type OrtTensor } from "./onnxruntime-web.ts";

/** What is used of a session beside what attention needs. */
interface ModelSession {
  run(
    feeds: Record<string, OrtTensor>,
    fetches: Record<string, OrtTensor | null>,
  ): Promise<Record<string, OrtTensor & { data: Float32Array }>>;
  release(): Promise<void>;
}

const numbersOf = async (model: BenchModel): Promise<ModelNumbers> =>
  "preset" in model ? presetNumbers(model.preset) : urlNumbers(new URL("/model/", location.href));

/** The largest of the logits; the first of equals. */
function greedy(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id]! > logits[best]!) best = id;
  return best;
}

/** A session with its cache. */
class OrtModel {
  /** Tokens that the cache holds. */
  private held = 0;

  private constructor(
    readonly key: string,
    private readonly ort: OrtPackage,
    private readonly session: ModelSession,
    private readonly buffers: ReadonlyMap<string, GPUBuffer>,
    private readonly cacheDims: readonly number[],
    private readonly takesPosition: boolean,
  ) {}

  static async load(device: GPUDevice, { model, promptTokens, newTokens }: ModelJob): Promise<OrtModel> {
    const ort = await loadOrt();
    const numbers = await numbersOf(model);
    const shape = llamaShape(numbers.config);
    const capacity = promptTokens + 2 * newTokens + 8;
    const graph = llamaModel(shape, Math.max(capacity, numbers.config.maxPositions));
    const externalData: { path: string; data: Uint8Array }[] = [];
    for (const weight of graph.weights) {
      const values = weightFile(weight, await numbers.tensor(weight.source, weight.shape));
      externalData.push({ path: weight.path, data: new Uint8Array(values.buffer) });
    }
    const layers = Array.from({ length: shape.layerCount }, (_, layer) => cacheNames(layer)).flat();
    const session = (await ort.InferenceSession.create(graph.model, {
      ...{ executionProviders: ["webgpu"], externalData },
      preferredOutputLocation: { logits: "cpu", ...Object.fromEntries(layers.map((n) => [n.present, "gpu-buffer"])) },
    })) as unknown as ModelSession;
    const cacheDims = [1, shape.kvHeads, capacity, shape.headDim];
    const size = 4 * cacheDims.reduce((product, dim) => product * dim);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const buffers = new Map(layers.map(({ past }) => [past, device.createBuffer({ label: past, size, usage })]));
    return new OrtModel(JSON.stringify(model), ort, session, buffers, cacheDims, graph.takesPosition);
  }

  /** Tokens behind the first `held` of the cache; the logits after the last. */
  async step(ids: readonly number[], held = this.held): Promise<Float32Array> {
    const { Tensor } = this.ort;
    const total = held + ids.length;
    const int32 = (values: readonly number[], dims: readonly number[]) =>
      new Tensor("int32", Int32Array.from(values), dims);
    const feeds: Record<string, OrtTensor> = {
      input_ids: int32(ids, [1, ids.length]),
      seqlens_k: int32([total - 1], [1]),
      total_sequence_length: int32([total], []),
      ...(this.takesPosition && { position: new Tensor("int64", BigInt64Array.of(BigInt(held)), [1]) }),
    };
    const fetches: Record<string, OrtTensor | null> = { logits: null };
    for (const [past, buffer] of this.buffers) {
      const tensor = () => Tensor.fromGpuBuffer(buffer, { dataType: "float32", dims: this.cacheDims });
      feeds[past] = tensor();
      fetches[past.replace("past_key_values", "present")] = tensor();
    }
    const { logits } = await this.session.run(feeds, fetches);
    this.held = total;
    return logits!.data;
  }

  async release(): Promise<void> {
    for (const buffer of this.buffers.values()) buffer.destroy();
    await this.session.release();
  }
}

let loaded: OrtModel | undefined;
/** The prompt's first answer, while its keys and values are in the cache. */
let first: { prompt: string; id: number } | undefined;

async function prepare(
  device: GPUDevice,
  job: ModelJob,
  make: (model: OrtModel, prompt: number[]) => Promise<Prepared["run"]>,
): Promise<Prepared> {
  if (loaded?.key !== JSON.stringify(job.model)) {
    await loaded?.release();
    first = undefined;
    loaded = await OrtModel.load(device, job);
  }
  const model = loaded;
  return {
    implementation: "GroupQueryAttention, K/V in place",
    run: await make(model, benchPrompt(job.promptTokens)),
    answer: async (question) => {
      first = undefined;
      return Array.from(await model.step((question as ModelQuestion).logitsOf, 0));
    },
    release: async () => {
      await loaded?.release();
      loaded = first = undefined;
    },
  };
}

async function readPrompt(model: OrtModel, prompt: number[]): Promise<number> {
  first = undefined;
  const id = greedy(await model.step(prompt, 0));
  first = { prompt: prompt.join(), id };
  return id;
}

/** Reads the prompt anew each time, to its first token. */
export const prepareModelPrefill = (device: GPUDevice, job: ModelJob): Promise<Prepared> =>
  prepare(device, job, async (model, prompt) => async (count) => {
    for (let index = 0; index < count; index++) await readPrompt(model, prompt);
    await device.queue.onSubmittedWorkDone();
  });

/** Decodes token by token behind the prompt, whose keys and values stay where they are. */
export const prepareModelDecode = (device: GPUDevice, job: ModelJob): Promise<Prepared> =>
  prepare(device, job, async (model, prompt) => {
    let id = first?.prompt === prompt.join() ? first.id : await readPrompt(model, prompt);
    let held = prompt.length;
    return async (count) => {
      for (let index = 0; index < count; index++) id = greedy(await model.step([id], held++));
      await device.queue.onSubmittedWorkDone();
    };
  });
