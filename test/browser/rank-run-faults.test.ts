/** Rank runs under a rain of faults at seeded moments: whatever stops an operation, the tokens stay the same. */
import { afterAll, expect, it } from "vitest";
import { ledgerOf } from "../../src/gpu/ledger.ts";
import { loadModel } from "../../src/model/load-model.ts";
import { seededRandom } from "../../src/model/seeded-random.ts";
import { createHostPicker } from "../../src/model/token-picker.ts";
import type { Model } from "../../src/model/types.ts";
import type { RingLayout } from "../../src/ring/types.ts";
import { randomModel, testDevice } from "./model-fixtures.ts";
import { RankRing } from "./rank-ring.ts";

const ROUNDS = 8;
const NEW_TOKENS = 5;
const layouts: RingLayout[] = ["contiguous", "zigzag", "striped"];

let model: Model | undefined;
afterAll(() => model?.destroy());

const prompt = Array.from({ length: 60 }, (_, index) => 3 + ((index * index * 5 + index) % 50));

/** A run that repeats whatever fails, as peers/ does: roll back, new epoch, compute what is missing, go on. */
async function survive(ring: RankRing, random: () => number, note: (what: string) => void): Promise<number[]> {
  const ids = [...prompt];
  const picker = createHostPicker({ temperature: 0.8, topP: 1, topK: 0, seed: 3 });
  const goal = prompt.length + NEW_TOKENS;
  let faults = 0;
  while (ids.length < goal) {
    const abort = new AbortController();
    const isFault = faults < 4 && random() < 0.5;
    const timer = isFault ? setTimeout(() => abort.abort(new Error("a fault")), random() * 60) : undefined;
    try {
      const { signal } = abort;
      const known = ids.length - 1;
      const missing = ring.missing(known);
      if (missing.length > 0) {
        // Half of what is missing, so that faults also come between.
        const part = missing.slice(0, Math.max(10, missing.length >> 1));
        const tokens = ring.runs.map((_, rank) =>
          part.filter((_, index) => index % ring.worldSize === rank).map((start) => ({ start, stride: 1, count: 1 })),
        );
        await ring.forward(ids, tokens, { signal, ropeLength: prompt.length });
        ring.commit();
      } else {
        const lead = Math.floor(random() * ring.worldSize);
        const logits = await ring.decode(ids.at(-1)!, known, { signal, lead });
        ids.push(picker.pick(logits as Float32Array<ArrayBuffer>));
      }
    } catch (error) {
      if (!abort.signal.aborted) throw error;
      faults++;
      await ring.idle();
      ring.rollback();
      const kind = random();
      if (kind < 0.4 && ring.worldSize > 1) ring.leave(Math.floor(random() * ring.worldSize));
      else if (kind < 0.7 && ring.worldSize < 5) await ring.join();
      else ring.newEpoch();
      note(kind < 0.4 ? "left" : kind < 0.7 ? "joined" : "again");
    } finally {
      clearTimeout(timer);
    }
  }
  return ids.slice(prompt.length);
}

it(`gives the same tokens in ${ROUNDS} runs with faults`, async () => {
  const device = await testDevice();
  const changes = { layer_types: ["sliding_attention", "full_attention", "sliding_attention"], sliding_window: 9 };
  model = await loadModel(randomModel("faults", changes, { seed: 8 }).files, { device });
  const expected: number[] = [];
  for await (const piece of model.generate(prompt, { maxNewTokens: NEW_TOKENS, temperature: 0.8, seed: 3 }))
    expected.push(piece.tokenId);
  expect(expected.length).toBe(NEW_TOKENS);
  const counts: Record<string, number> = {};
  let bytes: number | undefined;
  for (let round = 0; round < ROUNDS; round++) {
    const random = seededRandom(round + 1);
    const layout = layouts[round % 3]!;
    const rotation = round % 2 === 0 ? ("keyValue" as const) : ("query" as const);
    const ring = await RankRing.open(model, 2 + (round % 3), { layout, rotation, pageSize: 8 });
    try {
      const note = (what: string) => {
        counts[what] = (counts[what] ?? 0) + 1;
      };
      expect(await survive(ring, random, note), `round ${round}, ${layout}, ${rotation}`).toEqual(expected);
    } finally {
      ring.release();
    }
    bytes ??= ledgerOf(device).total.bytes;
    expect(ledgerOf(device).total.bytes, `bytes after round ${round}`).toBe(bytes);
  }
  console.log(`faults: ${JSON.stringify(counts)}`);
  expect(Object.values(counts).reduce((sum, count) => sum + count, 0)).toBeGreaterThan(ROUNDS / 2);
});
