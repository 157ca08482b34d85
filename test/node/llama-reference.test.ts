/** The oracle proves itself on a trained model: it reproduces the published greedy output. */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { argmax, LlamaReference } from "../../src/reference/llama.ts";

const folder = `${__SHARED__}/models/stories260K`;
const isThere = existsSync(folder);
if (!isThere) console.warn(`SKIPPED: ${folder} is absent`);

function readSafetensors(path: string): Map<string, Float32Array> {
  const bytes = readFileSync(path);
  const headerLength = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + headerLength).toString());
  const tensors = new Map<string, Float32Array>();
  for (const [name, entry] of Object.entries<{ dtype: string; data_offsets: [number, number] }>(header)) {
    if (name === "__metadata__") continue;
    expect(entry.dtype).toBe("F32");
    const data = bytes.subarray(8 + headerLength + entry.data_offsets[0], 8 + headerLength + entry.data_offsets[1]);
    tensors.set(name, new Float32Array(Uint8Array.from(data).buffer));
  }
  return tensors;
}

describe.skipIf(!isThere)("LlamaReference on stories260K", () => {
  const config = isThere && JSON.parse(readFileSync(`${folder}/config.json`, "utf8"));
  const golden: number[] = isThere && JSON.parse(readFileSync(`${folder}/golden.json`, "utf8")).token_ids;

  for (const precision of ["f64", "f32"] as const)
    it(`reproduces golden.json greedily in ${precision}`, () => {
      const model = new LlamaReference(config, readSafetensors(`${folder}/model.safetensors`), precision);
      const ids = [golden[0]!];
      while (ids.length < golden.length) ids.push(argmax(model.forward(ids.slice(-1))));
      expect(ids).toEqual(golden);
    });

  it("gives the same logits for a context read at once as token by token", () => {
    const weights = readSafetensors(`${folder}/model.safetensors`);
    const [whole, stepwise] = [new LlamaReference(config, weights), new LlamaReference(config, weights)];
    const atOnce = whole.forward(golden.slice(0, 50));
    let last = new Float64Array();
    for (const id of golden.slice(0, 50)) last = stepwise.forward([id]) as Float64Array<ArrayBuffer>;
    expect(Math.max(...atOnce.map((logit, i) => Math.abs(logit - last[i]!)))).toBeLessThan(1e-12);
  });
});
