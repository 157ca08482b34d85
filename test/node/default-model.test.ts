/** The default model: its files are what the script writes, and the oracle finds the needle with them. */
import { existsSync, readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { buildModelFiles } from "../../scripts/default-model/files.ts";
import { halfValue } from "../../scripts/default-model/half.ts";
import { needleText } from "../../src/model/needle-text.ts";
import { createTokenizer } from "../../src/model/tokenizer.ts";
import { argmax, LlamaReference } from "../../src/reference/llama.ts";

const BOS = 256;
const MATCH_LENGTH = 16;
const HIDDEN_SIZE = 128;
/** Channels of the match code of a token, see scripts/build-model.ts. */
const CODE = 64;
/** Logits per byte that agrees. */
const MATCH_LOGITS = 2048;

const read = (name: string) => readFileSync(new URL(`../../models/default/${name}`, import.meta.url));
const config = JSON.parse(read("config.json").toString());
const bytesOf = (text: string) => [...new TextEncoder().encode(text)];

function readWeights(): Map<string, Float64Array> {
  const file = read("model.safetensors");
  const headerLength = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + headerLength).toString());
  const weights = new Map<string, Float64Array>();
  for (const [name, entry] of Object.entries<{ dtype: string; data_offsets: [number, number] }>(header)) {
    if (name === "__metadata__") continue;
    expect(entry.dtype).toBe("F16");
    const [start, end] = entry.data_offsets.map((offset) => offset + 8 + headerLength) as [number, number];
    weights.set(
      name,
      Float64Array.from({ length: (end - start) / 2 }, (_, index) => halfValue(file.readUInt16LE(start + 2 * index))),
    );
  }
  return weights;
}

/** Greedy answer to a prompt of bytes, ended by a stop id or after 40 tokens. */
function answer(
  weights: Map<string, Float64Array>,
  prompt: string,
  precision: "f64" | "f32",
  begin: number[] = [BOS],
): number[] {
  const model = new LlamaReference(config, weights, precision);
  const ids: number[] = [];
  let next = argmax(model.forward([...begin, ...bytesOf(prompt)]));
  while (ids.length < 40) {
    ids.push(next);
    if (config.eos_token_id.includes(next)) break;
    next = argmax(model.forward([next]));
  }
  return ids;
}

describe("files", () => {
  it("are byte for byte what scripts/build-model.ts writes, and below 2 MiB together", () => {
    let byteLength = 0;
    for (const [name, bytes] of buildModelFiles()) {
      expect(read(name).equals(bytes), `${name}: run npm run build:model`).toBe(true);
      byteLength += bytes.length;
    }
    expect(byteLength).toBeLessThan(2 * 1024 * 1024);
  });

  it("turn every byte into the token of its number and back", async () => {
    const json = JSON.parse(read("tokenizer.json").toString());
    const tokenizer = await createTokenizer(json, JSON.parse(read("tokenizer_config.json").toString()));
    const text = "Tabs\tand  spaces, \r\n\r\nnaïve 🌊 日本語 — don't 1234567\u0000\u007f\n \n";
    const ids = tokenizer.encode(text);
    expect(ids).toEqual([BOS, ...bytesOf(text)]);
    expect(tokenizer.encode(text, { addBos: false })).toEqual(bytesOf(text));
    expect(tokenizer.decode(ids)).toBe(text);
    const log = needleText({ length: 20_000, depth: 30 }).text;
    expect(tokenizer.encode(log)).toEqual([BOS, ...bytesOf(log)]);
  });
});

describe("retrieval", () => {
  let weights: Map<string, Float64Array>;
  beforeAll(() => {
    weights = readWeights();
  });

  for (const [precision, depth] of [
    ["f64", 50],
    ["f32", 0],
    ["f32", 100],
  ] as const) {
    it(`finds the needle at depth ${depth} of 1,024 bytes in ${precision}, and stops`, () => {
      const needle = needleText({ length: 1024, depth, seed: depth });
      const ids = answer(weights, needle.text + needle.question, precision);
      expect(Buffer.from(ids).toString()).toBe(`${needle.answer}\n`);
    });
  }

  it("puts the copied byte at least 40 logits above every other", () => {
    const needle = needleText({ length: 400, depth: 20, seed: 3 });
    const model = new LlamaReference(config, weights, "f32");
    model.forward([BOS, ...bytesOf(needle.text + needle.question)]);
    for (const [index, byte] of bytesOf(needle.answer).entries()) {
      const logits = [...model.forward([byte])];
      const wanted = bytesOf(`${needle.answer}\n`)[index + 1]!;
      const others = logits.filter((_, id) => id !== wanted);
      expect(logits[wanted]! - Math.max(...others)).toBeGreaterThan(40);
    }
  });

  it("needs no BOS to find it", () => {
    const needle = needleText({ length: 400, depth: 0, seed: 8 });
    const ids = answer(weights, needle.text + needle.question, "f32", []);
    expect(Buffer.from(ids).toString()).toBe(`${needle.answer}\n`);
  });

  it("answers nothing to an empty prompt", () => {
    expect(answer(weights, "", "f64")).toEqual([257]);
  });

  it("goes on with what follows most of the places where the last 8 bytes agree, if 16 agree nowhere", () => {
    const text = "one merry fox ran. two merry fox ran. three merry fox sat. Quite another merry fox";
    expect(Buffer.from(answer(weights, text, "f32")).toString()).toMatch(/^ ran\. /);
  });

  /** Match code of a byte, `[3]`. */
  const code = (byte: number) => {
    const offset = byte * HIDDEN_SIZE + CODE;
    return weights.get("model.embed_tokens.weight")!.subarray(offset, offset + 3);
  };
  /** 2048 c(a) . c(b) for every two bytes, `[256, 256]`. */
  const pairLogits = () =>
    Float64Array.from({ length: 65536 }, (_, pair) => {
      const [a, b] = [code(pair >> 8), code(pair & 255)];
      return MATCH_LOGITS * (a[0]! * b[0]! + a[1]! * b[1]! + a[2]! * b[2]!);
    });

  it("tells any two bytes apart by more than 40 logits in one place out of 16", () => {
    const pairs = pairLogits();
    let closest = Number.POSITIVE_INFINITY;
    let unevenness = 0;
    for (let a = 0; a < 256; a++) {
      unevenness = Math.max(unevenness, Math.abs(pairs[a * 257]! - MATCH_LOGITS));
      for (let b = 0; b < 256; b++) if (a !== b) closest = Math.min(closest, pairs[a * 257]! - pairs[a * 256 + b]!);
    }
    expect(closest).toBeGreaterThan(40);
    // 16 of these together stay well below the 24 logits that BOS is behind an exact match.
    expect(unevenness).toBeLessThan(0.15);
  });

  const book = `${__SHARED__}/texts/war-and-peace_2600-0.txt`;
  if (!existsSync(book)) console.warn(`SKIPPED: ${book} is absent`);
  it.skipIf(!existsSync(book))("beats 100,000 other places of War and Peace by more than 20 logits", () => {
    const text = readFileSync(book).subarray(1_000_000, 1_100_000);
    const pairs = pairLogits();
    let smallestMargin = Number.POSITIVE_INFINITY;
    let queries = 0;
    for (let place = 1000; place < text.length; place += 1997) {
      const last = text.subarray(place - MATCH_LENGTH, place);
      let [exact, best] = [0, Number.NEGATIVE_INFINITY];
      let isUnique = true;
      for (let other = MATCH_LENGTH; other < text.length; other++) {
        let score = 0;
        for (let back = 1; back <= MATCH_LENGTH; back++) {
          score += pairs[last[MATCH_LENGTH - back]! * 256 + text[other - back]!]!;
        }
        if (other === place) exact = score;
        else {
          if (score > best) best = score;
          if (last.equals(text.subarray(other - MATCH_LENGTH, other))) isUnique = false;
        }
      }
      if (!isUnique) continue;
      queries++;
      smallestMargin = Math.min(smallestMargin, exact - best);
    }
    expect(queries).toBeGreaterThan(40);
    expect(smallestMargin).toBeGreaterThan(20);
  });
});
