/** config.json of the four architectures, rope in all its forms, and everything that is refused, by name and on the message. */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ModelFormatError, UnsupportedModelError } from "../../src/errors.ts";
import { expectedTensors, parseModelConfig } from "../../src/model/config.ts";
import { PRESET_NAMES, presetConfig, randomTensor } from "../../src/model/presets.ts";
import { elementCount } from "../../src/shape.ts";

const llama = (more: Record<string, unknown> = {}) => ({
  architectures: ["LlamaForCausalLM"],
  hidden_size: 64,
  intermediate_size: 172,
  num_hidden_layers: 3,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  vocab_size: 512,
  max_position_embeddings: 2048,
  ...more,
});

const of = (architecture: string, more: Record<string, unknown> = {}) =>
  parseModelConfig(llama({ architectures: [architecture], ...more }));

if (!existsSync(`${__SHARED__}/models`))
  console.warn(`SKIPPED: stories260K needs ${__SHARED__}/models, which is absent`);

describe("architectures", () => {
  test("Llama", () => {
    const config = parseModelConfig(
      llama({
        rms_norm_eps: 1e-5,
        rope_theta: 5e5,
        tie_word_embeddings: true,
        bos_token_id: 1,
        eos_token_id: 2,
        torch_dtype: "bfloat16",
      }),
    );
    expect(config).toEqual({
      architecture: "LlamaForCausalLM",
      hiddenSize: 64,
      intermediateSize: 172,
      layerCount: 3,
      heads: 8,
      kvHeads: 4,
      headDim: 8,
      vocabSize: 512,
      maxPositions: 2048,
      rmsNormEps: 1e-5,
      hiddenAct: "silu",
      tieWordEmbeddings: true,
      attentionBias: { query: false, key: false, value: false, output: false },
      mlpBias: false,
      qkNorm: false,
      rope: { type: "default", theta: 5e5 },
      layerTypes: ["full_attention", "full_attention", "full_attention"],
      bosTokenId: 1,
      eosTokenIds: [2],
      dtype: "bf16",
    });
  });

  test("Llama with per-layer types, as the default model has them", () => {
    const layerTypes = ["sliding_attention", "sliding_attention", "full_attention"];
    const config = parseModelConfig(llama({ layer_types: layerTypes, sliding_window: 16 }));
    expect(config.layerTypes).toEqual(layerTypes);
    expect(config.slidingWindow).toBe(16);
    // Without layer_types the reference ignores a window in a Llama.
    expect(parseModelConfig(llama({ sliding_window: 16 })).slidingWindow).toBeUndefined();
    expect(() => parseModelConfig(llama({ layer_types: layerTypes }))).toThrow(/sliding_window .* got nothing/);
    expect(() => parseModelConfig(llama({ layer_types: ["full_attention"] }))).toThrow(/\(3\) entries, got 1/);
    expect(() => parseModelConfig(llama({ layer_types: Array(3).fill("linear_attention") }))).toThrow(
      new UnsupportedModelError(
        'config.json: layer type "linear_attention" is not supported: expected full_attention or sliding_attention',
      ),
    );
  });

  test("Mistral slides everywhere, or nowhere", () => {
    const sliding = of("MistralForCausalLM", { sliding_window: 4096 });
    expect(sliding.layerTypes).toEqual(Array(3).fill("sliding_attention"));
    expect(sliding.slidingWindow).toBe(4096);
    const full = of("MistralForCausalLM", { sliding_window: null, head_dim: 16, attention_bias: true });
    expect(full.layerTypes).toEqual(Array(3).fill("full_attention"));
    expect(full.headDim).toBe(16);
    expect(full.attentionBias.query).toBe(false);
  });

  test("Qwen2 has biases on query, key and value; its window counts only where it is turned on", () => {
    const off = of("Qwen2ForCausalLM", { use_sliding_window: false, sliding_window: 4096, max_window_layers: 1 });
    expect(off.attentionBias).toEqual({ query: true, key: true, value: true, output: false });
    expect(off.slidingWindow).toBeUndefined();
    const on = of("Qwen2ForCausalLM", { use_sliding_window: true, sliding_window: 4096, max_window_layers: 1 });
    expect(on.layerTypes).toEqual(["full_attention", "sliding_attention", "sliding_attention"]);
  });

  test("Qwen3 norms queries and keys, and has heads of 128", () => {
    const config = of("Qwen3ForCausalLM");
    expect(config.qkNorm).toBe(true);
    expect(config.headDim).toBe(128);
    expect(expectedTensors(config).find(({ name }) => name.endsWith("0.self_attn.q_norm.weight"))?.shape).toEqual([
      128,
    ]);
  });

  test("without architectures, by model_type", () => {
    expect(parseModelConfig(llama({ architectures: undefined, model_type: "qwen3" })).qkNorm).toBe(true);
  });

  test("ids that end an answer: one, several, or generation_config.json's", () => {
    expect(parseModelConfig(llama({ eos_token_id: [257, 10] })).eosTokenIds).toEqual([257, 10]);
    expect(parseModelConfig(llama({ eos_token_id: 2 }), { eos_token_id: [5, 6] }).eosTokenIds).toEqual([5, 6]);
    expect(parseModelConfig(llama({ eos_token_id: 2 }), {}).eosTokenIds).toEqual([2]);
    expect(parseModelConfig(llama()).eosTokenIds).toEqual([]);
  });

  test.skipIf(!existsSync(`${__SHARED__}/models/stories260K`))("stories260K", () => {
    const config = parseModelConfig(JSON.parse(readFileSync(`${__SHARED__}/models/stories260K/config.json`, "utf8")));
    expect(config.layerCount).toBe(5);
    expect(expectedTensors(config)).toHaveLength(5 * 9 + 2);
  });
});

describe("rope", () => {
  const rope = (more: Record<string, unknown>) => parseModelConfig(llama(more)).rope;

  test("linear and dynamic, with the old word for the type", () => {
    expect(rope({ rope_scaling: { type: "linear", factor: 4 } })).toEqual({ type: "linear", theta: 10_000, factor: 4 });
    expect(rope({ rope_scaling: { type: "dynamic", factor: 2 } })).toEqual({
      type: "dynamic",
      theta: 10_000,
      factor: 2,
      originalMaxPositions: 2048,
    });
  });

  test("yarn: the attention factor is 0.1 ln(factor) + 1 unless given, or made of mscale", () => {
    const scaling = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 512 };
    expect(rope({ rope_scaling: scaling })).toEqual({
      type: "yarn",
      theta: 10_000,
      factor: 4,
      originalMaxPositions: 512,
      attentionFactor: 0.1 * Math.log(4) + 1,
      betaFast: 32,
      betaSlow: 1,
      truncate: true,
    });
    expect(rope({ rope_scaling: { ...scaling, attention_factor: 1.5 } })).toMatchObject({ attentionFactor: 1.5 });
    expect(rope({ rope_scaling: { ...scaling, mscale: 0.7, mscale_all_dim: 0.7 } })).toMatchObject({
      attentionFactor: 1,
    });
  });

  test("llama3, in the newer form with theta inside", () => {
    const rope_parameters = {
      rope_type: "llama3",
      rope_theta: 500_000,
      factor: 32,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    };
    expect(rope({ rope_parameters })).toEqual({
      type: "llama3",
      theta: 500_000,
      factor: 32,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositions: 8192,
    });
    expect(() => rope({ rope_parameters: { ...rope_parameters, high_freq_factor: 1 } })).toThrow(
      "config.json: rope_parameters: expected high_freq_factor to be above low_freq_factor (1), got 1",
    );
  });

  test.each(["longrope", "su", "mrope"])("%s is refused by name", (type) => {
    expect(() => rope({ rope_scaling: { type, factor: 2 } })).toThrow(
      new UnsupportedModelError(
        `config.json: rope_scaling: rope type "${type}" is not supported: expected default, linear, dynamic, yarn or llama3`,
      ),
    );
  });
});

describe("refused", () => {
  const unsupported: [Record<string, unknown>, string][] = [
    [{ architectures: ["MixtralForCausalLM"] }, 'architecture "MixtralForCausalLM" is not supported'],
    [{ architectures: undefined, model_type: "gpt2" }, 'architecture "gpt2" is not supported'],
    [{ quantization_config: { quant_method: "gptq" } }, 'quantized weights (quantization_config, method "gptq")'],
    [{ num_local_experts: 8 }, "mixture of experts (num_local_experts 8)"],
    [{ num_experts: 64 }, "mixture of experts (num_experts 64)"],
    [{ hidden_act: "relu" }, 'hidden_act "relu" is not supported'],
    [{ partial_rotary_factor: 0.5 }, "partial_rotary_factor 0.5 is not supported"],
    [{ rope_parameters: { full_attention: {} } }, "rope_parameters per layer type"],
    [{ head_dim: 512 }, "head_dim 512 is not supported: expected at most 256"],
    [{ torch_dtype: "float8_e4m3fn" }, 'dtype "float8_e4m3fn" is not supported'],
    [{ vision_config: {} }, "multimodal models (vision_config)"],
    [{ is_encoder_decoder: true }, "encoder-decoder models"],
    [{ rope_interleaved: true }, "rope_interleaved true is not supported"],
  ];
  test.each(unsupported)("unsupported: %j", (more, message) => {
    let error: unknown;
    try {
      parseModelConfig(llama(more));
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(UnsupportedModelError);
    expect((error as Error).message).toContain(`config.json: ${message}`);
  });

  const malformed: [Record<string, unknown>, string][] = [
    [{ hidden_size: undefined }, "expected hidden_size to be an integer from 1 to 1048576, got nothing"],
    [{ hidden_size: "64" }, 'expected hidden_size to be an integer from 1 to 1048576, got "64"'],
    [{ num_hidden_layers: 1e9 }, "expected num_hidden_layers to be an integer from 1 to 1024, got 1000000000"],
    [{ num_key_value_heads: 3 }, "expected num_key_value_heads to divide num_attention_heads (8), got 3"],
    [{ num_attention_heads: 7, num_key_value_heads: 7 }, "expected num_attention_heads to divide hidden_size (64)"],
    [{ head_dim: 7 }, "expected head_dim to be even"],
    [{ rms_norm_eps: -1 }, "expected rms_norm_eps to be a number of at least 0, got -1"],
    [{ rope_theta: 0 }, "expected rope_theta to be a number above 0, got 0"],
    [{ rope_scaling: 3 }, "expected rope_scaling to be an object, got 3"],
    [{ rope_scaling: { type: "linear" } }, "rope_scaling: expected factor to be a number of at least 1, got nothing"],
    [{ tie_word_embeddings: "yes" }, 'expected tie_word_embeddings to be true or false, got "yes"'],
    [{ architectures: "LlamaForCausalLM" }, "expected architectures to be a list of names"],
    [{ eos_token_id: ["2"] }, "expected eos_token_id to be an id or a list of ids"],
    [{ layer_types: 3 }, "expected layer_types to be a list of names, got 3"],
  ];
  test.each(malformed)("malformed: %j", (more, message) => {
    expect(() => parseModelConfig(llama(more))).toThrow(ModelFormatError);
    expect(() => parseModelConfig(llama(more))).toThrow(message);
  });

  test("what is no object", () => {
    expect(() => parseModelConfig([])).toThrow(new ModelFormatError("config.json: expected a JSON object, got []"));
  });
});

describe("presets", () => {
  test("have the sizes that their names promise", () => {
    const billions = Object.fromEntries(
      PRESET_NAMES.map((name) => {
        const tensors = expectedTensors(presetConfig(name));
        return [name, tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0) / 1e9];
      }),
    );
    expect(PRESET_NAMES).toEqual(["debug", "200m", "1b", "3b", "7b", "13b", "30b", "65b"]);
    expect(billions["200m"]).toBeCloseTo(0.21, 2);
    expect(billions["1b"]).toBeCloseTo(1.24, 1);
    expect(billions["3b"]).toBeCloseTo(3.43, 1);
    expect(billions["7b"]).toBeCloseTo(6.74, 2);
    expect(billions["13b"]).toBeCloseTo(13.02, 2);
    expect(billions["30b"]).toBeCloseTo(32.53, 2);
    expect(billions["65b"]).toBeCloseTo(65.29, 2);
    expect(() => presetConfig("9b" as "7b")).toThrow(/expected a name of debug, 200m/);
  });

  test("random weights depend on seed and place alone, with the original's spread", () => {
    const name = "model.layers.0.mlp.up_proj.weight";
    const whole = new Float32Array(100_000);
    randomTensor(name, 0, whole, 7);
    const slice = new Float32Array(1000);
    randomTensor(name, 5000, slice, 7);
    expect(slice).toEqual(whole.slice(5000, 6000));
    randomTensor(name, 5000, slice, 8);
    expect(slice).not.toEqual(whole.slice(5000, 6000));
    const mean = whole.reduce((sum, value) => sum + value, 0) / whole.length;
    const deviation = Math.sqrt(whole.reduce((sum, value) => sum + value * value, 0) / whole.length);
    expect(Math.abs(mean)).toBeLessThan(4e-4);
    expect(deviation).toBeCloseTo(0.02, 3);
    randomTensor("model.norm.weight", 0, slice);
    expect(slice.every((value) => value === 1)).toBe(true);
  });
});
