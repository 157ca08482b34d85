/**
 * A model's config.json, checked and put into our words. Everything that is not supported is refused by name here, before
 * a byte of weights is read.
 */
import { ModelFormatError, UnsupportedModelError } from "../errors.ts";
import { formatShape, type WeightDtype } from "../shape.ts";
import { describeJson, expectObject, Fields } from "./json.ts";
import { parseRopeConfig, type RopeConfig } from "./rope-config.ts";

export type { RopeConfig } from "./rope-config.ts";

/** Architectures that are supported: decoders of the LLaMA family. */
export const ARCHITECTURES = [
  "LlamaForCausalLM",
  "MistralForCausalLM",
  "Qwen2ForCausalLM",
  "Qwen3ForCausalLM",
] as const;

/** One of {@link ARCHITECTURES}. */
export type Architecture = (typeof ARCHITECTURES)[number];

/** Activation of the gated MLP: `gelu` is the exact one (erf), `gelu_tanh` its tanh approximation. */
export type HiddenAct = "silu" | "gelu" | "gelu_tanh";

/** What a layer's queries see: every earlier token, or those within `slidingWindow`. */
export type LayerType = "full_attention" | "sliding_attention";

/** A decoder of the LLaMA family: H heads, K kvHeads, D headDim, V vocabSize. */
export interface ModelConfig {
  architecture: Architecture;
  hiddenSize: number;
  intermediateSize: number;
  layerCount: number;
  /** H */
  heads: number;
  /** K; divides `heads`. */
  kvHeads: number;
  /** D; even, at most 256. `heads * headDim` need not be `hiddenSize`. */
  headDim: number;
  /** V */
  vocabSize: number;
  /** Positions the model was made for. */
  maxPositions: number;
  rmsNormEps: number;
  hiddenAct: HiddenAct;
  /** The output head is the embedding, transposed. */
  tieWordEmbeddings: boolean;
  /** Which projections carry a bias. */
  attentionBias: Readonly<{ query: boolean; key: boolean; value: boolean; output: boolean }>;
  mlpBias: boolean;
  /** RMSNorm over D on each query and key head, before rope (Qwen3). */
  qkNorm: boolean;
  rope: RopeConfig;
  /** One entry per layer. */
  layerTypes: readonly LayerType[];
  /** Tokens that a sliding layer sees, the query's own included; absent where no layer slides. */
  slidingWindow?: number;
  bosTokenId?: number;
  /** Ids that end an answer: generation_config.json's where it has them, else config.json's. */
  eosTokenIds: readonly number[];
  /** Type that the weights say they are stored in. What the files hold is what counts. */
  dtype?: WeightDtype;
}

const ACTIVATIONS: Readonly<Record<string, HiddenAct>> = {
  silu: "silu",
  swish: "silu",
  gelu: "gelu",
  gelu_python: "gelu",
  gelu_new: "gelu_tanh",
  gelu_fast: "gelu_tanh",
  gelu_pytorch_tanh: "gelu_tanh",
};

const DTYPES: Readonly<Record<string, WeightDtype>> = { float32: "f32", float16: "f16", bfloat16: "bf16" };

/** For a config without `architectures`. */
const MODEL_TYPES: Readonly<Record<string, Architecture>> = {
  llama: "LlamaForCausalLM",
  mistral: "MistralForCausalLM",
  qwen2: "Qwen2ForCausalLM",
  qwen3: "Qwen3ForCausalLM",
};

/** Where a config leaves `max_position_embeddings` out. */
const DEFAULT_MAX_POSITIONS: Readonly<Record<Architecture, number>> = {
  LlamaForCausalLM: 2048,
  MistralForCausalLM: 131_072,
  Qwen2ForCausalLM: 32_768,
  Qwen3ForCausalLM: 32_768,
};

/** Sizes beyond these are no model of today; they keep a lying file from filling the memory. */
const MAX_LAYERS = 1024;
const MAX_SIZE = 2 ** 20;
const MAX_VOCAB = 2 ** 24;
const MAX_POSITIONS = 2 ** 40;
const MAX_HEAD_DIM = 256;

function parseArchitecture(fields: Fields): Architecture {
  const list = fields.get("architectures");
  if (list !== undefined && !(Array.isArray(list) && list.length > 0 && list.every((name) => typeof name === "string")))
    return fields.refuse("architectures", "a list of names");
  const modelType = fields.string("model_type");
  const known = modelType !== undefined && Object.hasOwn(MODEL_TYPES, modelType) ? MODEL_TYPES[modelType] : undefined;
  const name: string | undefined = Array.isArray(list) ? list[0] : (known ?? modelType);
  if (name === undefined) return fields.refuse("architectures", `a list with one of ${ARCHITECTURES.join(", ")}`);
  if ((ARCHITECTURES as readonly string[]).includes(name)) return name as Architecture;
  throw new UnsupportedModelError(
    `${fields.where}: architecture ${describeJson(name)} is not supported: expected ${ARCHITECTURES.join(", ")}`,
  );
}

/** Things a config of a supported architecture may ask for that are not here. */
function refuseUnsupported(fields: Fields): void {
  const quantization = fields.get("quantization_config") ?? fields.get("compression_config");
  if (quantization !== undefined) {
    const method = (quantization as Record<string, unknown>).quant_method;
    throw new UnsupportedModelError(
      `${fields.where}: quantized weights (quantization_config, method ${describeJson(method ?? undefined)}) are not supported: expected weights in F32, F16 or BF16`,
    );
  }
  for (const name of ["num_local_experts", "num_experts", "n_routed_experts"])
    if (fields.has(name) && fields.get(name) !== 0)
      throw new UnsupportedModelError(
        `${fields.where}: mixture of experts (${name} ${describeJson(fields.get(name))}) is not supported: expected a dense model`,
      );
  for (const name of ["text_config", "vision_config", "audio_config"])
    if (fields.has(name))
      throw new UnsupportedModelError(
        `${fields.where}: multimodal models (${name}) are not supported: expected a text model`,
      );
  // Rope here turns dimension i with i + headDim/2, as all four architectures do; a few exports pair neighbours instead.
  if (fields.has("rope_interleaved") && fields.boolean("rope_interleaved", false))
    throw new UnsupportedModelError(
      `${fields.where}: rope_interleaved true is not supported: expected rope over the two halves of a head`,
    );
  if (fields.has("is_encoder_decoder") && fields.boolean("is_encoder_decoder", false))
    throw new UnsupportedModelError(`${fields.where}: encoder-decoder models are not supported: expected a decoder`);
}

/** Layer types and window as each architecture's reference implementation reads them. */
function parseLayerTypes(
  fields: Fields,
  architecture: Architecture,
  layerCount: number,
): Pick<ModelConfig, "layerTypes" | "slidingWindow"> {
  // Qwen names a window even where `use_sliding_window` turns it off.
  const isQwen = architecture === "Qwen2ForCausalLM" || architecture === "Qwen3ForCausalLM";
  const isOn = !isQwen || fields.boolean("use_sliding_window", false);
  const window = isOn && fields.has("sliding_window") ? fields.integer("sliding_window", 1, MAX_POSITIONS) : undefined;
  const given = fields.get("layer_types");
  let layerTypes: LayerType[];
  if (given === undefined) {
    // Llama without layer_types ignores a window; Mistral slides everywhere; Qwen from max_window_layers on.
    const first = isQwen && window !== undefined ? fields.integer("max_window_layers", 0, MAX_SIZE, 28) : 0;
    layerTypes = Array.from({ length: layerCount }, (_, layer) =>
      window !== undefined && architecture !== "LlamaForCausalLM" && layer >= first
        ? "sliding_attention"
        : "full_attention",
    );
  } else {
    if (!Array.isArray(given) || given.some((type) => typeof type !== "string"))
      return fields.refuse("layer_types", "a list of names");
    if (given.length !== layerCount)
      throw new ModelFormatError(
        `${fields.where}: expected layer_types to have num_hidden_layers (${layerCount}) entries, got ${given.length}`,
      );
    const unknown = given.find((type) => type !== "full_attention" && type !== "sliding_attention");
    if (unknown !== undefined)
      throw new UnsupportedModelError(
        `${fields.where}: layer type ${describeJson(unknown)} is not supported: expected full_attention or sliding_attention`,
      );
    layerTypes = given;
  }
  if (!layerTypes.includes("sliding_attention")) return { layerTypes };
  if (window === undefined)
    throw new ModelFormatError(
      `${fields.where}: expected sliding_window to be an integer from 1 to ${MAX_POSITIONS}, since layer_types has sliding layers, got ${isOn ? describeJson(fields.get("sliding_window")) : "use_sliding_window false"}`,
    );
  return { layerTypes, slidingWindow: window };
}

/** `eos_token_id`: an id, a list of ids, or nothing. */
function parseEosTokenIds(fields: Fields, vocabSize: number): number[] | undefined {
  const value = fields.get("eos_token_id");
  if (value === undefined) return undefined;
  const ids = Array.isArray(value) ? value : [value];
  // Some checkpoints name ids past the embedding (an eos that was never added), or -1 for none: those can never come out.
  if (ids.some((id) => !Number.isInteger(id))) return fields.refuse("eos_token_id", "an id or a list of ids");
  return ids.filter((id) => id >= 0 && id < vocabSize);
}

/**
 * Reads a config.json (and, for the ids that end an answer, a generation_config.json where there is one).
 * @param json What config.json holds, parsed.
 * @param generationJson What generation_config.json holds, parsed.
 * @throws {UnsupportedModelError} naming what is not supported: architecture, quantization, experts, rope type, activation, ...
 * @throws {ModelFormatError} naming field, expectation and what came.
 */
export function parseModelConfig(json: unknown, generationJson?: unknown): ModelConfig {
  const fields = new Fields("config.json", expectObject("config.json", "a JSON object", json));
  const architecture = parseArchitecture(fields);
  refuseUnsupported(fields);
  const isLlama = architecture === "LlamaForCausalLM";
  const hiddenSize = fields.integer("hidden_size", 1, MAX_SIZE);
  const layerCount = fields.integer("num_hidden_layers", 1, MAX_LAYERS);
  const heads = fields.integer("num_attention_heads", 1, MAX_SIZE);
  const kvHeads = fields.integer("num_key_value_heads", 1, MAX_SIZE, isLlama ? heads : undefined);
  if (heads % kvHeads !== 0)
    throw new ModelFormatError(
      `config.json: expected num_key_value_heads to divide num_attention_heads (${heads}), got ${kvHeads}`,
    );
  if (!fields.has("head_dim") && architecture !== "Qwen3ForCausalLM" && hiddenSize % heads !== 0)
    throw new ModelFormatError(
      `config.json: expected num_attention_heads to divide hidden_size (${hiddenSize}) where no head_dim is given, got ${heads}`,
    );
  const headDim = fields.integer(
    "head_dim",
    2,
    MAX_SIZE,
    architecture === "Qwen3ForCausalLM" ? 128 : Math.floor(hiddenSize / heads),
  );
  if (headDim > MAX_HEAD_DIM)
    throw new UnsupportedModelError(
      `config.json: head_dim ${headDim} is not supported: expected at most ${MAX_HEAD_DIM}`,
    );
  if (headDim % 2 !== 0)
    throw new ModelFormatError(`config.json: expected head_dim to be even (rope turns pairs), got ${headDim}`);
  const vocabSize = fields.integer("vocab_size", 1, MAX_VOCAB);
  const maxPositions = fields.integer("max_position_embeddings", 1, MAX_POSITIONS, DEFAULT_MAX_POSITIONS[architecture]);
  const activation = fields.string("hidden_act") ?? "silu";
  if (!Object.hasOwn(ACTIVATIONS, activation))
    throw new UnsupportedModelError(
      `config.json: hidden_act ${describeJson(activation)} is not supported: expected ${Object.keys(ACTIVATIONS).join(", ")}`,
    );
  const dtypeName = fields.string("dtype") ?? fields.string("torch_dtype") ?? "auto";
  if (dtypeName !== "auto" && !Object.hasOwn(DTYPES, dtypeName))
    throw new UnsupportedModelError(
      `config.json: dtype ${describeJson(dtypeName)} is not supported: expected ${Object.keys(DTYPES).join(", ")}`,
    );
  // Mistral and Qwen2 fix their biases; Llama and Qwen3 have a switch for all four.
  const allBias = (isLlama || architecture === "Qwen3ForCausalLM") && fields.boolean("attention_bias", false);
  const qkvBias = allBias || architecture === "Qwen2ForCausalLM";
  const generation =
    generationJson === undefined || generationJson === null
      ? undefined
      : new Fields("generation_config.json", expectObject("generation_config.json", "a JSON object", generationJson));
  const bosTokenId = fields.has("bos_token_id") ? fields.integer("bos_token_id", -1, MAX_VOCAB) : -1;
  return {
    architecture,
    hiddenSize,
    intermediateSize: fields.integer("intermediate_size", 1, MAX_SIZE),
    layerCount,
    heads,
    kvHeads,
    headDim,
    vocabSize,
    maxPositions,
    rmsNormEps: fields.number("rms_norm_eps", 0, false, 1e-6),
    hiddenAct: ACTIVATIONS[activation]!,
    tieWordEmbeddings: fields.boolean("tie_word_embeddings", false),
    attentionBias: { query: qkvBias, key: qkvBias, value: qkvBias, output: allBias },
    mlpBias: isLlama && fields.boolean("mlp_bias", false),
    qkNorm: architecture === "Qwen3ForCausalLM",
    rope: parseRopeConfig(fields, maxPositions),
    ...parseLayerTypes(fields, architecture, layerCount),
    ...(bosTokenId >= 0 && bosTokenId < vocabSize ? { bosTokenId } : {}),
    eosTokenIds: (generation && parseEosTokenIds(generation, vocabSize)) ?? parseEosTokenIds(fields, vocabSize) ?? [],
    ...(dtypeName === "auto" ? {} : { dtype: DTYPES[dtypeName]! }),
  };
}

/** A tensor that a model has to have. */
export interface ExpectedTensor {
  /** As in the safetensors file, e.g. "model.layers.3.self_attn.q_proj.weight". */
  name: string;
  /** Matrices are `[out, in]`. */
  shape: readonly number[];
}

/** Every tensor of a model, in the order in which a token meets them, under Hugging Face's names. */
export function expectedTensors(config: ModelConfig): ExpectedTensor[] {
  const { hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize, attentionBias, mlpBias } = config;
  const tensors: ExpectedTensor[] = [{ name: "model.embed_tokens.weight", shape: [vocabSize, hiddenSize] }];
  const linear = (name: string, out: number, input: number, hasBias: boolean) => {
    tensors.push({ name: `${name}.weight`, shape: [out, input] });
    if (hasBias) tensors.push({ name: `${name}.bias`, shape: [out] });
  };
  for (let layer = 0; layer < config.layerCount; layer++) {
    const prefix = `model.layers.${layer}`;
    tensors.push({ name: `${prefix}.input_layernorm.weight`, shape: [hiddenSize] });
    linear(`${prefix}.self_attn.q_proj`, heads * headDim, hiddenSize, attentionBias.query);
    linear(`${prefix}.self_attn.k_proj`, kvHeads * headDim, hiddenSize, attentionBias.key);
    linear(`${prefix}.self_attn.v_proj`, kvHeads * headDim, hiddenSize, attentionBias.value);
    if (config.qkNorm) {
      tensors.push({ name: `${prefix}.self_attn.q_norm.weight`, shape: [headDim] });
      tensors.push({ name: `${prefix}.self_attn.k_norm.weight`, shape: [headDim] });
    }
    linear(`${prefix}.self_attn.o_proj`, hiddenSize, heads * headDim, attentionBias.output);
    tensors.push({ name: `${prefix}.post_attention_layernorm.weight`, shape: [hiddenSize] });
    linear(`${prefix}.mlp.gate_proj`, intermediateSize, hiddenSize, mlpBias);
    linear(`${prefix}.mlp.up_proj`, intermediateSize, hiddenSize, mlpBias);
    linear(`${prefix}.mlp.down_proj`, hiddenSize, intermediateSize, mlpBias);
  }
  tensors.push({ name: "model.norm.weight", shape: [hiddenSize] });
  if (!config.tieWordEmbeddings) tensors.push({ name: "lm_head.weight", shape: [vocabSize, hiddenSize] });
  return tensors;
}

/** `"model.norm.weight [64]"`, as messages print a tensor. */
export const describeTensor = (tensor: ExpectedTensor): string => `${tensor.name} ${formatShape(tensor.shape)}`;
