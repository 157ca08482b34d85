/** The numbers of a benched model, for those who do not load models with Ringwise: onnxruntime's graph, and the oracle. */
import { type ModelFiles, type PresetName, UnsupportedModelError } from "../../src/index.ts";
import { type ExpectedTensor, expectedTensors, type ModelConfig, parseModelConfig } from "../../src/model/config.ts";
import { convertElements } from "../../src/model/convert.ts";
import { presetConfig, randomTensor } from "../../src/model/presets.ts";
import { readTensorList } from "../../src/model/safetensors.ts";
import { openModelSource } from "../../src/model/sources.ts";
import type { ReferenceConfig } from "../../src/reference/llama.ts";
import { elementCount } from "../../src/shape.ts";
import type { LlamaShape } from "./llama-model.ts";

export type { ModelConfig } from "../../src/model/config.ts";

/** A model: its sizes, and its tensors in f32 under Hugging Face's names. */
export interface ModelNumbers {
  config: ModelConfig;
  /** config.json, as the oracle reads it. */
  reference: ReferenceConfig;
  /** Every tensor that it has, in the order in which a token meets them. */
  tensors: readonly ExpectedTensor[];
  /** A whole tensor; matrices `[out, in]`. */
  tensor(name: string, shape: readonly number[]): Promise<Float32Array<ArrayBuffer>>;
}

/** A preset's numbers: those of `loadPreset` with its default seed. */
export function presetNumbers(name: PresetName): ModelNumbers {
  const config = presetConfig(name);
  const reference = {
    ...{ vocab_size: config.vocabSize, hidden_size: config.hiddenSize, intermediate_size: config.intermediateSize },
    ...{ num_hidden_layers: config.layerCount, num_attention_heads: config.heads, num_key_value_heads: config.kvHeads },
    ...{ head_dim: config.headDim, rms_norm_eps: config.rmsNormEps, rope_theta: 10_000, hidden_act: "silu" },
  };
  return {
    ...{ config, reference, tensors: expectedTensors(config) },
    async tensor(name, shape) {
      const values = new Float32Array(elementCount(shape));
      randomTensor(name, 0, values);
      return values;
    },
  };
}

/**
 * The numbers of a model's files.
 * @throws {ModelFormatError | UnsupportedModelError | ModelSourceError} as `loadModel`.
 */
export async function fileNumbers(files: ModelFiles): Promise<ModelNumbers> {
  const json = JSON.parse(new TextDecoder().decode(await files.read("config.json")));
  const config = parseModelConfig(json);
  const stored = new Map((await readTensorList(files)).map((tensor) => [tensor.name, tensor]));
  return {
    ...{ config, reference: json as ReferenceConfig, tensors: expectedTensors(config) },
    async tensor(name) {
      const { path, start, end, dtype } = stored.get(name)!;
      const bytes = convertElements(name, await files.read(path, { start, end }), dtype, "f32");
      return new Float32Array(bytes.slice().buffer);
    },
  };
}

/** {@link fileNumbers} of a folder at a URL. */
export const urlNumbers = async (url: URL): Promise<ModelNumbers> => fileNumbers(await openModelSource(url));

/** What the ONNX graph needs to know of a model. @throws {UnsupportedModelError} where the graph lacks what it has. */
export function llamaShape(config: ModelConfig): LlamaShape {
  const { attentionBias, mlpBias, qkNorm, hiddenAct, layerTypes, rope } = config;
  const lacks = [
    ...(Object.values(attentionBias).some(Boolean) || mlpBias ? ["biases"] : []),
    ...(qkNorm ? ["norms of heads"] : []),
    ...(hiddenAct === "silu" ? [] : [`activation ${hiddenAct}`]),
    ...(layerTypes.includes("sliding_attention") ? ["sliding windows"] : []),
    ...(rope.type === "default" ? [] : [`rope scaling ${rope.type}`]),
  ];
  if (lacks.length > 0)
    throw new UnsupportedModelError(`llamaShape: expected a plain LLaMA, got a model with ${lacks.join(", ")}`);
  return { ...config, ropeTheta: rope.theta };
}
