/** Models for tests: ../shared's trained one, and small ones with random weights, written as safetensors in memory. */
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { expectedTensors, parseModelConfig } from "../../src/model/config.ts";
import { seededRandom } from "../../src/model/seeded-random.ts";
import type { ModelFiles } from "../../src/model/types.ts";
import type { ReferenceConfig } from "../../src/reference/llama.ts";

/** One device for the tests of a file. */
let shared: Promise<GPUDevice> | undefined;
export const testDevice = (): Promise<GPUDevice> => (shared ??= requestRingwiseDevice());

const storiesUrl = `/@fs${__SHARED__}/models/stories260K`;

/** True where ../shared is there; says so loudly where it is not. */
export const hasShared: boolean = await fetch(`${storiesUrl}/golden.json`).then(
  async (response) => response.ok && (await response.text()).startsWith("{"),
  () => false,
);
if (!hasShared) console.warn(`SKIPPED: ${storiesUrl} is absent`);

/** Files by name, from memory. */
export function memoryFiles(name: string, files: ReadonlyMap<string, Uint8Array<ArrayBuffer>>): ModelFiles {
  return {
    name,
    size: async (path) => files.get(path)?.byteLength,
    async read(path, range) {
      const bytes = files.get(path);
      if (!bytes) throw new Error(`no file ${path}`);
      return range ? bytes.slice(range.start, range.end) : bytes.slice();
    },
  };
}

const encode = (value: unknown): Uint8Array<ArrayBuffer> =>
  new TextEncoder().encode(JSON.stringify(value)) as Uint8Array<ArrayBuffer>;

async function fetchBytes(url: string): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await (await fetch(url)).arrayBuffer());
}

let storiesFiles: Promise<ModelFiles> | undefined;
/** ../shared/models/stories260K, read once. */
export function stories(): Promise<ModelFiles> {
  storiesFiles ??= (async () => {
    const names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    const bytes = await Promise.all(names.map((name) => fetchBytes(`${storiesUrl}/${name}`)));
    return memoryFiles("stories260K", new Map(names.map((name, index) => [name, bytes[index]!])));
  })();
  return storiesFiles;
}

/** The published greedy output of stories260K: BOS and 200 tokens. */
export async function golden(): Promise<number[]> {
  return (await (await fetch(`${storiesUrl}/golden.json`)).json()).token_ids;
}

/** The published text of that output. */
export async function goldenText(): Promise<string> {
  return (await (await fetch(`${storiesUrl}/golden.json`)).json()).text;
}

/** The tensors of a safetensors file in F32, by name: read here on its own, for the oracle. */
export async function readTensors(files: ModelFiles): Promise<Map<string, Float32Array>> {
  const bytes = await files.read("model.safetensors");
  const headerLength = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + headerLength)));
  const tensors = new Map<string, Float32Array>();
  for (const [name, entry] of Object.entries<{ dtype: string; data_offsets: [number, number] }>(header)) {
    if (name === "__metadata__") continue;
    if (entry.dtype !== "F32") throw new Error(`fixture: ${name} is ${entry.dtype}`);
    const [start, end] = entry.data_offsets.map((offset) => 8 + headerLength + offset);
    tensors.set(name, new Float32Array(bytes.slice(start, end).buffer));
  }
  return tensors;
}

/** A tokenizer of single letters: `<unk>`, `<s>`, `</s>`, then one per character from "!" on; `<pad>` has the id after them.
 * With `isBytes` the tokens are bytes 0xC2, 0xC3, ... instead: each begins a character that never ends. */
function letterTokenizer(vocabSize: number, isBytes = false): Record<string, unknown> {
  const special = ["<unk>", "<s>", "</s>"];
  const vocab: Record<string, number> = {};
  const token = (index: number) =>
    isBytes ? `<0x${(0xc2 + index).toString(16).toUpperCase()}>` : String.fromCodePoint(0x21 + index);
  for (let id = 0; id < vocabSize; id++) vocab[special[id] ?? token(id - 3)] = id;
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [
      ...special.map((content, id) => ({ id, content, ...flags })),
      { id: vocabSize, content: "<pad>", ...flags },
    ],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [
        { SpecialToken: { id: "<s>", type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { Sequence: { id: "B", type_id: 1 } },
      ],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: { type: "Sequence", decoders: [{ type: "ByteFallback" }, { type: "Fuse" }] },
    model: { type: "BPE", unk_token: "<unk>", fuse_unk: false, byte_fallback: false, vocab, merges: [] },
  };
}

/** bfloat16's bits of a number: float32 rounded to its upper half, ties to even. */
function bf16Bits(value: number): number {
  const bits = new Uint32Array(new Float32Array([value]).buffer)[0]!;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

type StoredDtype = "F32" | "BF16";

/** A model with random weights: its files, and the same weights for the oracle. */
export interface RandomModel {
  config: ReferenceConfig;
  files: ModelFiles;
  weights: Map<string, Float32Array>;
}

const tiny = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 61,
  hidden_size: 48,
  intermediate_size: 80,
  num_hidden_layers: 3,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: false,
  hidden_act: "silu",
  bos_token_id: 1,
  eos_token_id: 2,
};

/** A small model of any supported architecture; `changes` go over the defaults of its config.json. */
export function randomModel(
  name: string,
  changes: Readonly<Record<string, unknown>> = {},
  options: {
    seed?: number;
    /** Of all tensors, or tensor by tensor. Default F32. */
    dtype?: StoredDtype | ((name: string) => StoredDtype);
    /** Puts a value first into a tensor. */
    corrupt?: { name: string; value: number };
    chatTemplate?: string;
    /** Tokens are bytes, none of which completes a character. */
    isBytes?: boolean;
  } = {},
): RandomModel {
  const config = { ...tiny, ...changes };
  const random = seededRandom(options.seed ?? 1);
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const { dtype: dtypeOf = "F32" } = options;
  const header: Record<string, unknown> = {};
  const weights = new Map<string, Float32Array>();
  const data: Uint8Array[] = [];
  let position = 0;
  for (const { name: tensor, shape } of expectedTensors(parseModelConfig(config))) {
    const isNorm = tensor.includes("norm");
    const spread = shape.length === 1 ? 0.2 : tensor.includes("embed") ? 1 : 1.5 / Math.sqrt(shape[1]!);
    const count = shape.reduce((product, axis) => product * axis, 1);
    let values = Float32Array.from({ length: count }, () => (isNorm ? 1 : 0) + spread * normal());
    if (options.corrupt?.name === tensor) values[0] = options.corrupt.value;
    let bytes = new Uint8Array(values.buffer);
    const dtype = typeof dtypeOf === "string" ? dtypeOf : dtypeOf(tensor);
    if (dtype === "BF16") {
      const bits = Uint16Array.from(values, bf16Bits);
      bytes = new Uint8Array(bits.buffer);
      values = new Float32Array(Uint32Array.from(bits, (half) => half << 16).buffer);
    }
    weights.set(tensor, values);
    const end = position + bytes.byteLength;
    header[tensor] = { dtype, shape, data_offsets: [position, end] };
    data.push(bytes);
    position = end;
  }
  const head = encode(header);
  const file = new Uint8Array(8 + head.byteLength + position);
  new DataView(file.buffer).setBigUint64(0, BigInt(head.byteLength), true);
  file.set(head, 8);
  let offset = 8 + head.byteLength;
  for (const bytes of data) {
    file.set(bytes, offset);
    offset += bytes.byteLength;
  }
  const files = new Map([
    ["config.json", encode(config)],
    ["model.safetensors", file],
    ["tokenizer.json", encode(letterTokenizer(config.vocab_size, options.isBytes))],
    [
      "tokenizer_config.json",
      encode({ bos_token: "<s>", eos_token: "</s>", add_bos_token: true, chat_template: options.chatTemplate }),
    ],
  ]);
  return { config: config as unknown as ReferenceConfig, files: memoryFiles(name, files), weights };
}
