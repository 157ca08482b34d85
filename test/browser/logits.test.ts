/**
 * Logits against the float64 oracle: every architecture on small random models, and the trained one at the last of 3,000
 * tokens. Tolerance: twice the error of plain float32 code, and a floor of 4 units in the last place of the largest logit,
 * because a float32 sum of a few lucky roundings can happen to be nearly exact.
 */
import { describe, expect, it } from "vitest";
import { loadModel } from "../../src/model/load-model.ts";
import type { ModelFiles, RingOptions } from "../../src/model/types.ts";
import { LlamaReference, type ReferenceConfig, type ReferenceWeights } from "../../src/reference/llama.ts";
import { hasShared, type RandomModel, randomModel, readTensors, stories, testDevice } from "./model-fixtures.ts";

const maxDifference = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let max = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!);
    if (!(difference <= max)) max = difference; // NaN comes through
  }
  return max;
};

const tolerance = (oracle: Float64Array, plain: Float64Array): number =>
  2 * maxDifference(oracle, plain) + 4 * 2 ** -24 * Math.max(...oracle.map(Math.abs));

/** Logits after a context, from the GPU. */
async function gpuLogits(
  files: ModelFiles,
  ids: readonly number[],
  ring: RingOptions,
  options: { chunk: number; weightDtype?: "auto" | "f32" } = { chunk: 512 },
): Promise<Float32Array> {
  const model = await loadModel(files, { device: await testDevice(), ring, weightDtype: options.weightDtype });
  try {
    return await model.logits(ids, { prefillChunkSize: options.chunk });
  } finally {
    model.destroy();
  }
}

function expectLogits(config: ReferenceConfig, weights: ReferenceWeights, ids: readonly number[], got: Float32Array) {
  const oracle = new LlamaReference(config, weights, "f64").forward(ids);
  const plain = new LlamaReference(config, weights, "f32").forward(ids);
  const most = tolerance(oracle, plain);
  const error = maxDifference(oracle, got);
  console.log(`error ${error.toExponential(2)}, allowed ${most.toExponential(2)}, largest ${Math.max(...oracle)}`);
  expect(got.length).toBe(oracle.length);
  expect(error).toBeLessThanOrEqual(most);
}

const mistral = { architectures: ["MistralForCausalLM"], model_type: "mistral", sliding_window: 7 };
const qwen2 = { architectures: ["Qwen2ForCausalLM"], model_type: "qwen2", use_sliding_window: false };
const qwen3 = { architectures: ["Qwen3ForCausalLM"], model_type: "qwen3", head_dim: 8 };
const layerTypes = ["sliding_attention", "full_attention", "sliding_attention"];
const rope = (rope_type: string, fields: Record<string, unknown> = {}) => ({
  rope_scaling: { rope_type, factor: 4, ...fields },
});

const models: [name: string, model: () => RandomModel, ring: RingOptions][] = [
  ["llama, untied head", () => randomModel("llama"), { worldSize: 1 }],
  [
    "llama, tied head, attention bias, mlp bias",
    () => randomModel("bias", { tie_word_embeddings: true, attention_bias: true, mlp_bias: true }),
    { worldSize: 2 },
  ],
  ["llama, bf16 weights", () => randomModel("bf16", {}, { dtype: "BF16" }), { worldSize: 3 }],
  [
    "qwen2, F32 biases and up_proj beside BF16 weights",
    () => {
      const isWide = (name: string) => name.endsWith(".bias") || name.includes("layers.1.mlp.up_proj");
      return randomModel("mixed", qwen2, { dtype: (name) => (isWide(name) ? "F32" : "BF16") });
    },
    { worldSize: 2 },
  ],
  [
    "llama, odd sizes",
    () =>
      randomModel("odd", {
        hidden_size: 30,
        num_attention_heads: 3,
        num_key_value_heads: 1,
        head_dim: 14,
        intermediate_size: 37,
        vocab_size: 53,
      }),
    { worldSize: 2 },
  ],
  ["mistral, window 7", () => randomModel("mistral", mistral), { worldSize: 3, layout: "striped" }],
  ["qwen2, qkv bias", () => randomModel("qwen2", qwen2), { worldSize: 2, layout: "contiguous" }],
  ["qwen3, q and k norms", () => randomModel("qwen3", qwen3), { worldSize: 4 }],
  [
    "layer_types, window 7",
    () => randomModel("types", { layer_types: layerTypes, sliding_window: 7 }),
    { worldSize: 2, blockMemory: "host" },
  ],
  [
    "layer_types with vanilla attention",
    () => randomModel("types", { layer_types: layerTypes, sliding_window: 7 }),
    { attention: "vanilla" },
  ],
  ["rope linear", () => randomModel("linear", rope("linear")), { worldSize: 2 }],
  ["rope dynamic", () => randomModel("dynamic", { ...rope("dynamic"), max_position_embeddings: 32 }), { worldSize: 2 }],
  ["rope yarn", () => randomModel("yarn", rope("yarn", { original_max_position_embeddings: 16 })), { worldSize: 2 }],
  [
    "rope llama3",
    () =>
      randomModel(
        "llama3",
        rope("llama3", { low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 16 }),
      ),
    { worldSize: 2 },
  ],
];

describe("logits of random models equal the oracle's", () => {
  for (const [name, make, ring] of models)
    it(name, async () => {
      const { config, files, weights } = make();
      const ids = Array.from({ length: 45 }, (_, index) => (index * 17 + 5) % config.vocab_size);
      expectLogits(config, weights, ids, await gpuLogits(files, ids, ring, { chunk: 16 }));
    });
});

describe.skipIf(!hasShared)("logits of stories260K", () => {
  it("at the last of 3,000 Shakespeare tokens equal the oracle's", async () => {
    const files = await stories();
    const model = await loadModel(files, { device: await testDevice(), ring: { worldSize: 4, layout: "zigzag" } });
    const response = await fetch(`/@fs${__SHARED__}/texts/tinyshakespeare.txt`);
    const ids = model.tokenize((await response.text()).slice(0, 12_000)).slice(0, 3000);
    expect(ids.length).toBe(3000);
    const got = await model.logits(ids);
    model.destroy();
    const config = JSON.parse(new TextDecoder().decode(await files.read("config.json")));
    expectLogits(config, await readTensors(files), ids, got);
  });
});
