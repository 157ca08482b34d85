/** Mangled models at the loader: whatever is wrong with them, loading ends soon, with a model or with one of our errors. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { RingwiseError } from "../../src/errors.ts";
import { ledgerOf } from "../../src/gpu/ledger.ts";
import { expectedTensors, parseModelConfig } from "../../src/model/config.ts";
import { readDescription } from "../../src/model/read-description.ts";
import { INDEX_FILE, SINGLE_FILE } from "../../src/model/safetensors.ts";
import type { ModelFiles } from "../../src/model/types.ts";
import { loadWeights, releaseWeights } from "../../src/model/weights.ts";
import { elementCount } from "../../src/shape.ts";
import { fakeDevice, memoryFiles, packTensors, safetensorsFile } from "./model-files.ts";

const RUNS = 2500;
const encode = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));

const config = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 8,
  intermediate_size: 4,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 4,
  vocab_size: 16,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 16, beta_fast: 32 },
  layer_types: ["sliding_attention", "full_attention"],
  sliding_window: 8,
  hidden_act: "silu",
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: [2, 3],
  torch_dtype: "float32",
};

const tensors = expectedTensors(parseModelConfig(config)).map(({ name, shape }) => ({
  name,
  shape,
  dtype: "F32",
  bytes: new Uint8Array(elementCount(shape) * 4).fill(7),
}));
const half = Math.floor(tensors.length / 2);

const tokenizer = {
  added_tokens: [{ id: 8, content: "<s>", special: true }],
  normalizer: { type: "Sequence", normalizers: [{ type: "NFC" }] },
  pre_tokenizer: {
    type: "Sequence",
    pretokenizers: [
      { type: "Split", pattern: { Regex: "\\s+" }, behavior: "Isolated", invert: false },
      { type: "ByteLevel" },
    ],
  },
  post_processor: {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
  },
  decoder: { type: "Sequence", decoders: [{ type: "ByteLevel" }, { type: "Strip", content: " ", start: 1, stop: 0 }] },
  model: { type: "BPE", vocab: { a: 0, b: 1, ab: 2, Ġ: 3, abb: 4 }, merges: ["a b", "ab b"], unk_token: null },
};

const common = {
  "config.json": encode(config),
  "generation_config.json": encode({ eos_token_id: 2 }),
  "tokenizer.json": encode(tokenizer),
  "tokenizer_config.json": encode({
    bos_token: "<s>",
    add_bos_token: true,
    chat_template: [{ name: "default", template: "x" }],
  }),
};
const single: Record<string, Uint8Array> = { ...common, [SINGLE_FILE]: packTensors(tensors) };
const sharded: Record<string, Uint8Array> = {
  ...common,
  [INDEX_FILE]: encode({
    metadata: { total_size: 1 },
    weight_map: Object.fromEntries(
      tensors.map(({ name }, index) => [name, index < half ? "one.safetensors" : "two.safetensors"]),
    ),
  }),
  "one.safetensors": packTensors(tensors.slice(0, half)),
  "two.safetensors": packTensors(tensors.slice(half)),
};

/** What loadModel reads, in its order and by its functions; kernels need a real device. */
async function load(files: ModelFiles, device: GPUDevice): Promise<void> {
  const { config: parsed, tokenizer: made } = await readDescription(files);
  made.decode(made.encode("ab b"));
  releaseWeights(await loadWeights(device, files, parsed, { weightDtype: "bf16" }));
}

/** Values that parsers trip over. */
const nasty = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    "",
    "0",
    "F16",
    "I64",
    "__proto__",
    "constructor",
    [],
    {},
    [[]],
    -1,
    0,
    1,
    2,
    3,
    0.5,
    1e9,
    2 ** 31,
    2 ** 53,
    1e308,
    -0,
    [0, 4],
    [4, 0],
    [2 ** 53, 2 ** 53],
    { type: "BPE" },
  ),
  fc.jsonValue({ maxDepth: 2 }),
  fc.integer(),
  fc.string({ maxLength: 8 }),
);

const edit = fc.record({
  at: fc.nat(),
  other: fc.nat(),
  kind: fc.constantFrom("replace", "replace", "remove", "swap", "add", "rename"),
  value: nasty,
  key: fc.constantFrom(
    "__proto__",
    "constructor",
    "dtype",
    "shape",
    "quantization_config",
    "num_experts",
    "x",
    "0",
    "",
  ),
});

type Edit = typeof edit extends fc.Arbitrary<infer T> ? T : never;
type Slot = { holder: Record<string, unknown>; key: string };

function slotsOf(value: unknown, slots: Slot[] = []): Slot[] {
  if (typeof value === "object" && value !== null)
    for (const key of Object.keys(value)) {
      slots.push({ holder: value as Record<string, unknown>, key });
      slotsOf((value as Record<string, unknown>)[key], slots);
    }
  return slots;
}

/** Edits a JSON tree at places that the numbers choose. */
function mangleTree(root: unknown, edits: readonly Edit[]): unknown {
  const holder = { root: structuredClone(root) };
  for (const { at, other, kind, value, key } of edits) {
    const slots = slotsOf(holder);
    if (slots.length === 0) break;
    const slot = slots[at % slots.length]!;
    const second = slots[other % slots.length]!;
    const put = (target: Slot["holder"], name: string, what: unknown) =>
      Object.defineProperty(target, name, {
        value: structuredClone(what),
        enumerable: true,
        configurable: true,
        writable: true,
      });
    if (Array.isArray(slot.holder) && kind === "remove") slot.holder.splice(Number(slot.key), 1);
    else if (kind === "remove") delete slot.holder[slot.key];
    else if (kind === "swap") put(slot.holder, slot.key, second.holder[second.key]);
    else if (kind === "add" && Array.isArray(slot.holder)) slot.holder.push(structuredClone(value));
    else if (kind === "add") put(slot.holder, key, value);
    else if (kind === "rename" && !Array.isArray(slot.holder)) {
      put(slot.holder, key, slot.holder[slot.key]);
      delete slot.holder[slot.key];
    } else put(slot.holder, slot.key, value);
  }
  return holder.root;
}

const cut = fc.record({
  at: fc.nat(),
  kind: fc.constantFrom("flip", "set", "drop", "insert", "truncate"),
  byte: fc.nat(255),
});

/** Edits bytes, for the most part near the beginning, where headers are. */
function mangleBytes(
  bytes: Uint8Array,
  cuts: readonly (typeof cut extends fc.Arbitrary<infer T> ? T : never)[],
): Uint8Array {
  let list = [...bytes];
  for (const { at, kind, byte } of cuts) {
    const place = at % Math.max(1, byte % 2 ? Math.min(12, list.length) : list.length);
    if (kind === "flip") list[place] = (list[place] ?? 0) ^ (1 << (byte & 7));
    else if (kind === "set") list[place] = byte;
    else if (kind === "drop") list.splice(place, 1 + (byte & 3));
    else if (kind === "insert") list.splice(place, 0, byte, byte);
    else list = list.slice(0, place);
  }
  return Uint8Array.from(list);
}

/** The header of a safetensors file, edited as a tree and put back with an honest length. */
function mangleHeader(file: Uint8Array, edits: readonly Edit[], isLengthHonest: boolean): Uint8Array {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = mangleTree(JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length))), edits);
  const json = encode(header ?? null);
  const made = new Uint8Array(8 + json.byteLength + file.byteLength - 8 - length);
  new DataView(made.buffer).setBigUint64(0, BigInt(isLengthHonest ? json.byteLength : length), true);
  made.set(json, 8);
  made.set(file.subarray(8 + length), 8 + json.byteLength);
  return made;
}

test("nesting without end, lists and names without end", async () => {
  const deep = `${"[".repeat(100_000)}${"]".repeat(100_000)}`;
  const long = JSON.stringify("x".repeat(1_000_000));
  const wide = JSON.stringify(Array(100_000).fill(1));
  for (const value of [deep, long, wide])
    for (const [path, text] of [
      ["config.json", value],
      ["config.json", `{"architectures":${value}}`],
      ["config.json", `{"architectures":["LlamaForCausalLM"],"hidden_size":${value}}`],
      ["tokenizer.json", `{"model":${value}}`],
      ["tokenizer.json", JSON.stringify(tokenizer).replace('{"type":"NFC"}', value)],
      ["tokenizer.json", JSON.stringify(tokenizer).replace('"a b"', value)],
      [INDEX_FILE, `{"weight_map":{"a":${value}}}`],
      [INDEX_FILE, `{"weight_map":{${long}:${value}}}`],
      ["one.safetensors", `{"a":${value}}`],
      ["one.safetensors", `{${long}:{"dtype":"F32","shape":${value},"data_offsets":${value}}}`],
      ["one.safetensors", `{${long}:{"dtype":"F32","shape":${wide},"data_offsets":[0,8]}}`],
    ] as const) {
      const bytes = path === "one.safetensors" ? safetensorsFile(text, new Uint8Array(4)) : text;
      const error = await load(memoryFiles({ ...sharded, [path]: bytes }), fakeDevice().device).catch(
        (caught) => caught,
      );
      expect(error, `${path}: ${text.slice(0, 80)}`).toBeInstanceOf(RingwiseError);
      expect(error.message.length, `${path}: ${text.slice(0, 80)}`).toBeLessThan(1000);
    }
});

test(`${RUNS} mangled models: no hang, no crash, no unnamed error, nothing left on the GPU`, async () => {
  const outcomes = new Map<string, number>();
  const count = (key: string) => outcomes.set(key, (outcomes.get(key) ?? 0) + 1);
  await fc.assert(
    fc.asyncProperty(
      fc.boolean(),
      fc.nat(),
      fc.constantFrom("tree", "tree", "tree", "bytes", "nonsense", "absent"),
      fc.array(edit, { minLength: 1, maxLength: 4 }),
      fc.array(cut, { minLength: 1, maxLength: 4 }),
      fc.boolean(),
      nasty,
      async (isSharded, pick, how, edits, cuts, isLengthHonest, nonsense) => {
        const contents = { ...(isSharded ? sharded : single) };
        // Headers and configs above all; every file now and then.
        const paths = Object.keys(contents);
        const favourites = paths.filter((path) => path.includes("safetensors") || path === "config.json");
        const path = pick % 3 === 0 ? paths[pick % paths.length]! : favourites[pick % favourites.length]!;
        const bytes = contents[path]!;
        if (how === "absent") delete contents[path];
        else if (how === "bytes") contents[path] = mangleBytes(bytes, cuts);
        else if (how === "nonsense") contents[path] = encode(nonsense);
        else if (path.endsWith(".safetensors")) contents[path] = mangleHeader(bytes, edits, isLengthHonest);
        else contents[path] = encode(mangleTree(JSON.parse(new TextDecoder().decode(bytes)), edits) ?? null);

        const { device, buffers } = fakeDevice();
        try {
          await load(memoryFiles(contents), device);
          count("loaded");
        } catch (error) {
          if (!(error instanceof RingwiseError)) throw error;
          expect(error.message.length).toBeGreaterThan(20);
          expect(error.message.length).toBeLessThan(1000);
          count(error.name);
          count(error.message.replace(/[\d"].*/, "").slice(0, 40));
        }
        expect(ledgerOf(device).total.bytes).toBe(0);
        expect(buffers.every(({ isDestroyed }) => isDestroyed)).toBe(true);
      },
    ),
    { numRuns: RUNS, seed: 20_240_229 },
  );
  // The mangling has to reach far: models that still load, both kinds of refusal, and many different reasons.
  expect(outcomes.get("loaded")).toBeGreaterThan(RUNS / 50);
  expect(outcomes.get("ModelFormatError")).toBeGreaterThan(RUNS / 5);
  expect(outcomes.get("UnsupportedModelError")).toBeGreaterThan(RUNS / 100);
  expect(outcomes.size).toBeGreaterThan(40);
}, 60_000);
