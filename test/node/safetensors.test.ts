/** Safetensors: headers that lie, shards and their index, tensors in pieces, element types, and loading onto a (fake) GPU. */
import { existsSync, readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { openFolder } from "../../src/cli/folder-source.ts";
import {
  DeviceLostError,
  GpuMemoryError,
  ModelFormatError,
  OptionError,
  UnsupportedModelError,
} from "../../src/errors.ts";
import { lossSignal } from "../../src/gpu/device-loss.ts";
import { ledgerOf } from "../../src/gpu/ledger.ts";
import { expectedTensors, parseModelConfig } from "../../src/model/config.ts";
import { convertElements, f16ToNumber, numberToBf16, numberToF16 } from "../../src/model/convert.ts";
import { findDuplicateKey } from "../../src/model/duplicate-keys.ts";
import { presetConfig, randomTensor, randomWeights } from "../../src/model/presets.ts";
import { INDEX_FILE, readTensorList, SINGLE_FILE } from "../../src/model/safetensors.ts";
import { streamTensors } from "../../src/model/tensor-stream.ts";
import { weightDtypes } from "../../src/model/weight-dtypes.ts";
import { loadWeights, releaseWeights } from "../../src/model/weights.ts";
import { BYTES_PER_ELEMENT, elementCount } from "../../src/shape.ts";
import { type FakeBuffer, fakeDevice, memoryFiles, packTensors, safetensorsFile } from "./model-files.ts";

if (!existsSync(`${__SHARED__}/models`)) console.warn(`SKIPPED: some tests need ${__SHARED__}/models, which is absent`);

const F32 = (count: number) => new Uint8Array(count * 4);
const tensor = (start: number, end: number, more: Record<string, unknown> = {}) => ({
  dtype: "F32",
  shape: [(end - start) / 4],
  data_offsets: [start, end],
  ...more,
});
const list = (file: Uint8Array) => readTensorList(memoryFiles({ [SINGLE_FILE]: file }));

describe("headers that lie", () => {
  const lies: [string, unknown, number, RegExp][] = [
    [
      "an overlap",
      { a: tensor(0, 8), b: tensor(4, 12) },
      3,
      /expected "b" to start at 8, right after "a", got 4 \(an overlap\)/,
    ],
    [
      "a hole",
      { a: tensor(0, 4), b: tensor(8, 12) },
      3,
      /expected "b" to start at 4, right after "a", got 8 \(a hole\)/,
    ],
    ["a hole at the start", { a: tensor(4, 8) }, 2, /expected "a" to start at 0, right after the header, got 4/],
    [
      "an end past the file",
      { a: tensor(0, 400) },
      1,
      /expected "a" to end within the file of \d+ bytes, got an end at/,
    ],
    ["a rest", { a: tensor(0, 4) }, 3, /expected the tensors to fill the file of \d+ bytes/],
    ["another size", { a: tensor(0, 4, { shape: [2] }) }, 1, /expected "a", F32 \[2\], to take 8 bytes, got 4/],
    ["offsets backwards", { a: tensor(0, 4, { data_offsets: [4, 0] }) }, 1, /data_offsets of "a" to be \[start, end\]/],
    ["one offset", { a: tensor(0, 4, { data_offsets: [0] }) }, 1, /data_offsets of "a"/],
    ["a negative shape", { a: tensor(0, 4, { shape: [-1, -1] }) }, 1, /shape of "a" to be a list of counts/],
    ["a boundless shape", { a: tensor(0, 4, { shape: [2 ** 40, 2 ** 40] }) }, 1, /shape of "a"/],
    ["an unknown dtype", { a: tensor(0, 4, { dtype: "F31" }) }, 1, /dtype of "a" to be F32, F16 or BF16, got "F31"/],
    ["no object", { a: 3 }, 1, /tensor "a" to be an object, got 3/],
    ["a list", [], 0, /expected the header to start with \{/],
    ["metadata of numbers", { __metadata__: { n: 1 } }, 0, /__metadata__ to hold strings only/],
    [
      "a name twice",
      `{"a":${JSON.stringify(tensor(0, 4))},"a":${JSON.stringify(tensor(0, 4))}}`,
      1,
      /every name in the header once, got "a" twice/,
    ],
    ["a field twice", '{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 1, /got "dtype" twice/],
    ["no JSON", '{"a":', 0, /expected JSON/],
  ];
  test.each(lies)("%s", async (_, header, count, message) => {
    const error = await list(safetensorsFile(header, F32(count))).catch((caught) => caught);
    expect(error).toBeInstanceOf(ModelFormatError);
    expect(error.message).toMatch(message);
  });

  test("a dtype that exists elsewhere is refused by name", async () => {
    await expect(list(safetensorsFile({ a: tensor(0, 4, { dtype: "F8_E4M3", shape: [4] }) }, F32(1)))).rejects.toThrow(
      new UnsupportedModelError('model.safetensors: dtype F8_E4M3 of "a" is not supported: expected F32, F16 or BF16'),
    );
  });

  test.each([0, 1, 99, 2 ** 30, 2 ** 52])("a header length of %d", async (length) => {
    await expect(list(safetensorsFile({ a: tensor(0, 4) }, F32(1), length))).rejects.toThrow(ModelFormatError);
  });

  test("a header length of 2^64 - 1, and a file of 3 bytes", async () => {
    const file = safetensorsFile({ a: tensor(0, 4) }, F32(1));
    await expect(list(file.fill(255, 0, 8))).rejects.toThrow(/expected a header of 2 to \d+ bytes/);
    await expect(list(new Uint8Array(3))).rejects.toThrow("expected at least 8 bytes, got a file of 3");
  });

  test("an honest one is read, empty tensors and padding included", async () => {
    const header = `${JSON.stringify({ b: tensor(4, 12), a: tensor(0, 4), none: { dtype: "BF16", shape: [0, 7], data_offsets: [12, 12] } })}   `;
    const tensors = await list(safetensorsFile(header, F32(3)));
    expect(tensors.map(({ name, start, end }) => [name, end - start, start - tensors[0]!.start])).toEqual([
      ["a", 4, 0],
      ["b", 8, 4],
      ["none", 0, 12],
    ]);
  });

  test("duplicate keys are found behind escapes, and only within one object", () => {
    expect(findDuplicateKey('{"a":1,"\\u0061":2}')).toBe("a");
    expect(findDuplicateKey('{"a":{"a":1},"b":{"a":"a"},"c":["a","a","\\"",{"a":[]}]}')).toBeUndefined();
    fc.assert(
      fc.property(fc.json(), (text) => findDuplicateKey(text) === undefined),
      { numRuns: 300, seed: 3 },
    );
  });
});

describe("shards", () => {
  const shard = (name: string, value = 1) =>
    packTensors([{ name, dtype: "F32", shape: [1], bytes: new Uint8Array(new Float32Array([value]).buffer) }]);
  const index = (weight_map: unknown) => JSON.stringify({ metadata: {}, weight_map });
  const files = { "one.safetensors": shard("a"), "two.safetensors": shard("b") };
  const read = (weightMap: unknown, more = {}) =>
    readTensorList(memoryFiles({ ...files, [INDEX_FILE]: index(weightMap), ...more }));

  test("are put together", async () => {
    const tensors = await read({ b: "two.safetensors", a: "one.safetensors" });
    expect(tensors.map(({ name, path }) => [name, path])).toEqual([
      ["a", "one.safetensors"],
      ["b", "two.safetensors"],
    ]);
  });

  const broken: [string, unknown, RegExp][] = [
    [
      "absent shards",
      { a: "one.safetensors", b: "gone.safetensors" },
      /expected the shards that it names, got no gone.safetensors/,
    ],
    [
      "missing tensors",
      { a: "one.safetensors", c: "one.safetensors" },
      /expected the shards to hold what it names, got no c/,
    ],
    ["a tensor elsewhere", { a: "two.safetensors", b: "two.safetensors" }, /got no a/],
    [
      "a tensor it does not name",
      { a: "one.safetensors", c: "two.safetensors" },
      /weight_map\["b"\] to be "two.safetensors", where it is, got nothing/,
    ],
    ["a way out of the folder", { a: "../one.safetensors" }, /to be the name of a .safetensors file, got "..\/one/],
    ["another host", { a: "http://x/one.safetensors" }, /to be the name of a .safetensors file/],
    ["no map", 3, /expected weight_map to be an object, got 3/],
  ];
  test.each(broken)("%s", async (_, weightMap, message) => {
    const error = await read(weightMap).catch((caught) => caught);
    expect(error).toBeInstanceOf(ModelFormatError);
    expect(error.message).toMatch(message);
  });

  test("a tensor in two shards", async () => {
    const twice = read({ a: "one.safetensors", b: "two.safetensors" }, { "two.safetensors": shard("a") });
    await expect(twice).rejects.toThrow(/expected "a" in one shard, got it in one.safetensors as well/);
  });

  test("no weights, or others' formats", async () => {
    await expect(readTensorList(memoryFiles({}))).rejects.toThrow(
      "memory: expected model.safetensors or model.safetensors.index.json, got neither",
    );
    await expect(readTensorList(memoryFiles({ "pytorch_model.bin": "" }))).rejects.toThrow(UnsupportedModelError);
  });
});

test("tensors stream in pieces that join to the whole, whatever the read's size", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ isNarrow: fc.boolean(), count: fc.integer({ min: 0, max: 200 }) }), { maxLength: 8 }),
      fc.integer({ min: 64, max: 500 }),
      async (specs, readByteLength) => {
        const made = specs.map(({ isNarrow, count }, index) => ({
          name: `t${index}`,
          dtype: isNarrow ? "BF16" : "F32",
          shape: [count],
          bytes: Uint8Array.from({ length: count * (isNarrow ? 2 : 4) }, (_, i) => (i * 7 + index) & 255),
        }));
        const files = memoryFiles({ [SINGLE_FILE]: packTensors(made) });
        const joined = new Map<string, number[]>();
        const finished: string[] = [];
        for await (const piece of streamTensors(files, await readTensorList(files), { readByteLength })) {
          expect(piece.byteOffset % 8).toBe(0);
          expect(piece.bytes.byteLength).toBeLessThanOrEqual(readByteLength);
          const sofar = joined.get(piece.tensor.name) ?? [];
          expect(piece.byteOffset).toBe(sofar.length);
          joined.set(piece.tensor.name, [...sofar, ...piece.bytes]);
          if (piece.isLast) finished.push(piece.tensor.name);
        }
        for (const { name, bytes } of made) expect(joined.get(name)).toEqual([...bytes]);
        expect(finished.sort()).toEqual(made.map(({ name }) => name).sort());
      },
    ),
    { numRuns: 100, seed: 2 },
  );
});

describe("element types", () => {
  test("every f16 goes to f32 and back", () => {
    for (let bits = 0; bits < 65_536; bits++) {
      const value = f16ToNumber(bits);
      if (Number.isNaN(value)) expect(Number.isNaN(f16ToNumber(numberToF16(value)))).toBe(true);
      else if (numberToF16(value) !== bits) expect.fail(`f16 bits ${bits}`);
    }
  });

  test("f32 to f16 takes the nearest, ties to even", () => {
    const near = (bits: number) => Math.abs(f16ToNumber(bits));
    fc.assert(
      fc.property(fc.float({ noNaN: true, min: -65_504, max: 65_504 }), (value) => {
        const bits = numberToF16(value);
        const error = Math.abs(f16ToNumber(bits) - value);
        const magnitude = bits & 0x7fff;
        for (const other of [magnitude - 1, magnitude + 1].filter((next) => next >= 0 && next < 0x7c00)) {
          const distance = Math.abs(near(other) - Math.abs(value));
          expect(error < distance || (error === distance && bits % 2 === 0)).toBe(true);
        }
      }),
      { numRuns: 3000, seed: 4 },
    );
    expect(f16ToNumber(numberToF16(65_519))).toBe(65_504);
    expect(f16ToNumber(numberToF16(65_520))).toBe(Number.POSITIVE_INFINITY);
  });

  test("f32 to bf16 takes the nearest, ties to even", () => {
    expect(numberToBf16(1)).toBe(0x3f80);
    expect(numberToBf16(1 + 2 ** -8)).toBe(0x3f80);
    expect(numberToBf16(1 + 3 * 2 ** -8)).toBe(0x3f82);
    expect(numberToBf16(Number.NaN) & 0x7f).not.toBe(0);
    expect(numberToBf16(-3.4e38)).toBe(0xff80);
  });

  test("every pair, from any alignment", () => {
    const values = [0, -0, 1, -1.5, 0.333251953125, 1024, -65_504, 2 ** -14, 2 ** -24];
    const f32 = new Uint8Array(new Float32Array(values).buffer);
    const shifted = (bytes: Uint8Array) => {
      const holder = new Uint8Array(bytes.byteLength + 1);
      holder.set(bytes, 1);
      return holder.subarray(1);
    };
    const f16 = convertElements("w", shifted(f32), "f32", "f16");
    expect(convertElements("w", shifted(f16), "f16", "f32")).toEqual(f32);
    const bf16 = convertElements("w", f32, "f32", "bf16");
    expect(convertElements("w", f16, "f16", "bf16")).toEqual(bf16);
    const wide = convertElements("w", shifted(bf16), "bf16", "f32");
    expect(convertElements("w", wide, "f32", "bf16")).toEqual(bf16);
    expect(convertElements("w", f32, "f32", "f32")).toBe(f32);
    const large = new Uint8Array(new Float32Array([1e5]).buffer);
    expect(() => convertElements("w", large, "f32", "f16")).toThrow(
      new OptionError(
        "w: expected weights within f16's range of +-65504, got 100000; keep them as bf16 or f32 (weightDtype)",
      ),
    );
  });
});

describe("onto the GPU", () => {
  const config = parseModelConfig({
    architectures: ["Qwen2ForCausalLM"],
    hidden_size: 12,
    intermediate_size: 20,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    vocab_size: 33,
    tie_word_embeddings: true,
  });
  const made = expectedTensors(config).map(({ name, shape }, index) => {
    const isNarrow = index % 3 === 1;
    const values = Float32Array.from({ length: elementCount(shape) }, (_, i) => (i % 128) - index);
    const bytes = new Uint8Array(values.buffer);
    return {
      name,
      shape,
      values,
      dtype: isNarrow ? "BF16" : "F32",
      bytes: isNarrow ? convertElements(name, bytes, "f32", "bf16") : bytes,
    };
  });
  const filesOf = (tensors = made) => memoryFiles({ [SINGLE_FILE]: packTensors(tensors) });
  const bytesOf = (buffer: GPUBuffer) => (buffer as unknown as FakeBuffer).bytes;
  const heldBytes = (device: GPUDevice) => ledgerOf(device).total.bytes;

  test.each(["auto", "f32", "bf16", "f16"] as const)("weightDtype %s", async (weightDtype) => {
    const { device } = fakeDevice();
    const seen: number[] = [];
    const weights = await loadWeights(device, filesOf(), config, {
      weightDtype,
      readByteLength: 100,
      onProgress: ({ loadedBytes, totalBytes }) => seen.push(loadedBytes / totalBytes),
    });
    expect([...weights.keys()].sort()).toEqual(made.map(({ name }) => name).sort());
    const stored = made.map(({ name, dtype }) => ({ name, dtype: dtype === "F32" ? "f32" : "bf16" }) as const);
    const dtypes = weightDtypes(stored, weightDtype, { isCpu: false });
    expect(new Set(dtypes.values())).toEqual(new Set(weightDtype === "auto" ? ["f32", "bf16"] : [weightDtype]));
    for (const { name, shape, values } of made) {
      const weight = weights.get(name)!;
      expect(weight.shape).toEqual(shape);
      expect(weight.dtype).toBe(dtypes.get(name));
      const byteLength = elementCount(shape) * BYTES_PER_ELEMENT[weight.dtype];
      const wide = convertElements(name, bytesOf(weight.buffer).slice(0, byteLength), weight.dtype, "f32");
      expect([...new Float32Array(wide.buffer)]).toEqual([...values]);
    }
    expect(seen.at(-1)).toBe(1);
    expect(seen.every((share, i) => i === 0 || share >= seen[i - 1]!)).toBe(true);
    releaseWeights(weights);
    expect(heldBytes(device)).toBe(0);
  });

  test("what one kernel reads together shares a type that holds all of it exactly", () => {
    const stored = {
      "model.layers.0.self_attn.q_proj.weight": "bf16",
      "model.layers.0.self_attn.q_proj.bias": "f32",
      "model.layers.0.self_attn.k_proj.weight": "bf16",
      "model.layers.0.mlp.gate_proj.weight": "bf16",
      "model.layers.0.mlp.up_proj.weight": "f16",
      "model.layers.0.mlp.down_proj.bias": "bf16",
      "model.layers.1.mlp.gate_proj.weight": "f16",
      "model.layers.1.mlp.up_proj.weight": "f16",
      "model.norm.weight": "f32",
    } as const;
    const list = Object.entries(stored).map(([name, dtype]) => ({ name, dtype }));
    const got = weightDtypes(list, "auto", { isCpu: false });
    expect([...got.values()]).toEqual(["f32", "f32", "bf16", "f32", "f32", "f32", "f16", "f16", "f32"]);
    expect(new Set(weightDtypes(list, "bf16", { isCpu: true }).values())).toEqual(new Set(["bf16"]));
  });

  test("f16 is widened to f32 on CPU adapters, exactly, and kept where it is asked for", async () => {
    const narrow = made.map((one) => {
      const f32 = new Uint8Array(one.values.buffer as ArrayBuffer);
      return { ...one, dtype: "F16", bytes: convertElements(one.name, f32, "f32", "f16") };
    });
    for (const isFallbackAdapter of [true, false])
      for (const weightDtype of ["auto", "f16"] as const) {
        const { device } = fakeDevice({ isFallbackAdapter });
        const weights = await loadWeights(device, filesOf(narrow), config, { weightDtype });
        const isWidened = isFallbackAdapter && weightDtype === "auto";
        for (const { name, values, bytes } of narrow) {
          const { dtype, buffer } = weights.get(name)!;
          expect(dtype).toBe(isWidened ? "f32" : "f16");
          const expected = isWidened ? new Uint8Array(values.buffer) : bytes;
          expect(Buffer.compare(bytesOf(buffer).subarray(0, expected.byteLength), expected)).toBe(0);
        }
      }
  });

  test("missing, extra and misshapen tensors are named before a buffer is made; harmless extras pass", async () => {
    const { device, buffers } = fakeDevice();
    const extra = { name: "model.layers.9.bias", dtype: "F32", shape: [1], bytes: F32(1), values: new Float32Array(1) };
    const load = (tensors: typeof made) => loadWeights(device, filesOf(tensors), config);
    await expect(load(made.slice(1))).rejects.toThrow(
      new ModelFormatError(
        "weights: expected the 26 tensors of this Qwen2ForCausalLM, got no model.embed_tokens.weight",
      ),
    );
    await expect(load([...made, extra])).rejects.toThrow(
      /expected only the 26 tensors .* got model.layers.9.bias as well/,
    );
    await expect(load(made.map((one) => ({ ...one, shape: [...one.shape, 1] })))).rejects.toThrow(
      /expected model.embed_tokens.weight \[33, 12\] \(from config.json\), got \[33, 12, 1\]/,
    );
    expect(buffers).toHaveLength(0);
    const harmless = ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"].map((name) => ({
      ...extra,
      name,
    }));
    const weights = await load([...made, ...harmless]);
    expect(weights.size).toBe(26);
  });

  test("an error, an abort or a lost device gives everything back", async () => {
    const small = fakeDevice({ maxBufferSize: 1000 });
    await expect(loadWeights(small.device, filesOf(), config)).rejects.toThrow(GpuMemoryError);
    expect(heldBytes(small.device)).toBe(0);

    const { device, buffers } = fakeDevice();
    const stop = new AbortController();
    const reason = new Error("enough");
    const onProgress = ({ loadedBytes, totalBytes }: { loadedBytes: number; totalBytes: number }) => {
      if (loadedBytes > totalBytes / 2) stop.abort(reason);
    };
    await expect(loadWeights(device, filesOf(), config, { onProgress, signal: stop.signal })).rejects.toBe(reason);
    expect(buffers.length).toBeGreaterThan(5);
    expect(buffers.every(({ isDestroyed }) => isDestroyed)).toBe(true);
    expect(heldBytes(device)).toBe(0);
    await expect(loadWeights(device, filesOf(), config, { signal: stop.signal })).rejects.toBe(reason);

    const doomed = fakeDevice();
    doomed.lose("the driver was reset");
    const loss = lossSignal(doomed.device);
    await expect(loadWeights(doomed.device, filesOf(), config)).rejects.toThrow(DeviceLostError);
    // One error for everyone who waits for this device.
    await expect(loadWeights(doomed.device, filesOf(), config)).rejects.toBe(loss.reason);
    expect(heldBytes(doomed.device)).toBe(0);
  });

  test("random weights are those of randomTensor, slice by slice, and can be stopped", async () => {
    const { device } = fakeDevice();
    const preset = { ...presetConfig("debug"), vocabSize: 5000 };
    const weights = await randomWeights(device, preset, { seed: 3, dtype: "f32" });
    expect(weights.size).toBe(expectedTensors(preset).length);
    const name = "model.embed_tokens.weight";
    const expected = new Float32Array(5000 * 256);
    randomTensor(name, 0, expected, 3);
    const got = bytesOf(weights.get(name)!.buffer);
    expect(Buffer.compare(got, new Uint8Array(expected.buffer))).toBe(0);
    const signal = AbortSignal.abort(new Error("no"));
    await expect(randomWeights(fakeDevice().device, preset, { signal })).rejects.toThrow("no");
  });

  test.skipIf(!existsSync(`${__SHARED__}/models/stories260K`))("stories260K, bit for bit", async () => {
    const folder = `${__SHARED__}/models/stories260K`;
    const files = await openFolder(folder);
    const stories = parseModelConfig(JSON.parse(readFileSync(`${folder}/config.json`, "utf8")));
    const { device } = fakeDevice();
    const weights = await loadWeights(device, files, stories, { readByteLength: 65_536 });
    const whole = readFileSync(`${folder}/${SINGLE_FILE}`);
    const tensors = await readTensorList(files);
    expect(tensors).toHaveLength(47);
    for (const { name, start, end } of tensors)
      expect(
        Buffer.compare(bytesOf(weights.get(name)!.buffer).subarray(0, end - start), whole.subarray(start, end)),
      ).toBe(0);
  });
});
