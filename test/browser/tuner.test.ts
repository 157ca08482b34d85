/** The tuner on a real device: a wrong kernel is never chosen, a winner is found again, and no store can break anything. */
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { OptionError, UnsupportedDeviceError } from "../../src/errors.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { placeholder, uniforms } from "../../src/gpu/dispatch.ts";
import { ledgerOf } from "../../src/gpu/ledger.ts";
import { createAttention } from "../../src/kernels/attention.ts";
import { resolveAttention } from "../../src/kernels/attention-options.ts";
import { createAttentionStepper } from "../../src/kernels/attention-stepper.ts";
import type { AttentionOptions } from "../../src/kernels/attention-types.ts";
import { ATTENTION_CANDIDATES, type AttentionCandidate } from "../../src/kernels/candidates.ts";
import { chooseKernel } from "../../src/kernels/tiles.ts";
import { type TunedShape, tuneAttention, tuneResolved } from "../../src/kernels/tune.ts";
import type { TunedStore, TuneOptions } from "../../src/kernels/tune-types.ts";
import type { TunedRecord } from "../../src/kernels/tuned-record.ts";
import { createIndexedDbStore } from "../../src/kernels/tuned-store.ts";
import { createRingAttention } from "../../src/ring/ring-attention.ts";

/** The kernel that compiles fastest, with its text changed. */
const TILE = ATTENTION_CANDIDATES.find(({ id }) => id === "tile-64x16")!;
function altered(id: string, from: string, to: string): AttentionCandidate {
  const { file, code } = TILE.source;
  expect(code).toContain(from);
  return { ...TILE, id, source: { file: `${file} (${id})`, code: code.replace(from, to) } };
}
const ROWS = "let rows = params.seq_len * GROUP;";
const STOP = "let stop = min(visible_keys(b, last_row / GROUP).y";
const FACTOR = "let factor = end_row(split, b, h, t, row_max, row_sum)";
const right = (id: string) => ({ ...TILE, id });
/** Does nothing at all: nobody is faster. */
const idle = (id: string) => altered(id, ROWS, `${ROWS} if (rows > 0u) { return; }`);
/** Leaves out the last key. */
const forgetful = (id: string) => altered(id, STOP, `${STOP} - 1u`);
/** Right in short calls; in long ones a single row, which is none of those that are looked at first, is 10% too large. */
const liar = (id: string) => altered(id, FACTOR, `${FACTOR} * select(1.0, 1.1, params.kv_len > 200u && row == 65u)`);
const broken = (id: string) => altered(id, ROWS, "let rows = nonsense;");

const OPTIONS: AttentionOptions = { heads: 1, headDim: 8 };
const PATIENT = { works: ["many-rows"], budgetMs: 120_000, maxCandidates: 20 } as const;

const memoryStore = (): TunedStore & { records: Map<string, unknown> } => {
  const records = new Map<string, unknown>();
  return {
    ...{ name: "a map", records, get: async (key: string) => records.get(key) },
    set: async (key: string, record: TunedRecord) => void records.set(key, structuredClone(record)),
  };
};

async function newDevice(): Promise<GPUDevice> {
  const made = await requestRingwiseDevice();
  // These stay with the device; what tuning takes must not.
  uniforms(made, [{ u32: 1 }]);
  placeholder(made);
  return made;
}

let device: GPUDevice;
beforeAll(async () => {
  device = await newDevice();
});
afterEach(() => vi.unstubAllGlobals());

const resolved = resolveAttention("test", OPTIONS);
const chosen = (on = device) => chooseKernel(on, resolved, "many-rows");

/** Tunes anew, keeping nothing unless told otherwise; all memory must be back. */
async function tune(candidates: readonly AttentionCandidate[], options: TuneOptions = {}, on = device) {
  const before = ledgerOf(on).total.bytes;
  try {
    const all = { ...PATIENT, store: null, isAnew: true, ...options };
    const [tuned] = (await tuneResolved(on, resolved, all, { candidates })) as [TunedShape];
    return tuned.record;
  } finally {
    // A compile that was under way when tuning was called off ends a moment later.
    await expect.poll(() => ledgerOf(on).total.bytes).toBe(before);
  }
}

describe("a wrong candidate is never chosen", () => {
  it("though it is the fastest, the first, or one of a majority", async () => {
    const record = await tune([
      ...[liar("first"), idle("fastest"), forgetful("subtle"), forgetful("subtle too"), broken("broken")],
      right("right"),
    ]);
    expect(Object.fromEntries(record!.candidates.map(({ id, status }) => [id, status]))).toEqual({
      ...{ first: "wrong", fastest: "wrong", subtle: "wrong", "subtle too": "wrong", broken: "failed", right: "ok" },
    });
    expect(record!.id).toBe("right");
    expect(record!.candidates[0]!.reason).toMatch(/token 65 of head 0/);
    expect(record!.candidates[4]!.reason).toMatch(/nonsense|compil/i);
    expect(chosen()).toMatchObject({ id: "right", basis: "measured" });
    expect(chosen().why).toMatch(/fastest right kernel .*; wrong: first, fastest, subtle, subtle too/);
  });

  it("and one that disagrees with a right one before it is found out too", async () => {
    const record = await tune([right("right"), liar("liar")]);
    expect(record!.candidates.map(({ status }) => status)).toEqual(["ok", "wrong"]);
  });

  it("and where none is right, that is an error, not a choice", async () => {
    const failure = await tune([idle("idle"), forgetful("forgetful")]).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(UnsupportedDeviceError);
    expect((failure as Error).message).toMatch(
      /expected a kernel that computes .* right on .*, got none: idle wrong \(expected .*, got .*\); forgetful wrong/,
    );
  });
});

describe("within the budget", () => {
  it("of nothing, the safe choice stays, and says why; a later budget is used", async () => {
    const other = await newDevice();
    expect(await tune([right("right")], { budgetMs: 0.001 }, other)).toBeUndefined();
    expect(chosen(other)).toMatchObject({ id: "right", basis: "safe" });
    expect(chosen(other).why).toMatch(/nothing was measured: right not measured \(.*budget/);
    expect((await tune([right("right")], { isAnew: false }, other))?.id).toBe("right");
    other.destroy();
  });

  it("can be called off, and gives all memory back", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    const onProgress = () => controller.abort(reason);
    await expect(tune([right("right")], { signal: controller.signal, onProgress })).rejects.toBe(reason);
    const gone = AbortSignal.abort(reason);
    await expect(createAttention(device, { ...OPTIONS, tune: { isAnew: true, signal: gone } })).rejects.toBe(reason);
  });

  it("is a number; two at once measure one after the other, and the second finds what the first did", async () => {
    await expect(tuneAttention(device, OPTIONS, { budgetMs: Number.NaN })).rejects.toThrow(OptionError);
    const other = await newDevice();
    const both = [1, 2].map(() =>
      tuneResolved(other, resolved, { ...PATIENT, store: null }, { candidates: [right("right")] }),
    );
    const records = (await Promise.all(both)).map(([tuned]) => tuned!.record?.id);
    expect(records).toEqual(["right", undefined]);
    other.destroy();
  });
});

describe("what was found is kept", () => {
  // Workgroup tiles compile fastest, and tune under a class of their own.
  const options: AttentionOptions = { ...OPTIONS, design: "tile" };

  it("and found again by attention, steppers and rings on another device, unless the kernels are others", async () => {
    const store = memoryStore();
    const [{ record }] = (await tuneAttention(device, options, { ...PATIENT, maxCandidates: 1, store })) as [
      TunedShape,
    ];
    expect(store.records.size).toBe(1);
    const other = await newDevice();
    const recall = { store, budgetMs: 0 };
    const attention = await createAttention(other, { ...options, kind: "blockwise", tune: recall });
    expect(attention.choice!.manyRows).toMatchObject({ id: record!.id, basis: "stored" });
    expect(attention.choice!.manyRows.why).toMatch(/from a map\)$/);
    // From now on it is the device's own.
    const stepper = await createAttentionStepper(other, options);
    expect(stepper.choice.manyRows).toEqual(attention.choice!.manyRows);
    const ring = await createRingAttention(other, { heads: 1, headDim: 8, design: "tile" });
    expect(ring.choice.manyRows).toEqual(attention.choice!.manyRows);
    for (const made of [attention, stepper, ring]) made.destroy();
    other.destroy();

    const [[key, kept]] = [...store.records] as [[string, TunedRecord]];
    for (const useless of [
      { ...kept, kernels: "others" },
      { ...kept, id: "nobody" },
      { ...kept, version: 2 },
      "?",
      null,
    ]) {
      store.records.set(key, useless);
      const third = await newDevice();
      await tuneAttention(third, options, recall);
      expect(chooseKernel(third, resolveAttention("test", options), "many-rows").basis).toBe("safe");
      third.destroy();
    }
  });

  it("in IndexedDB where nobody says otherwise", async () => {
    await tune([right("right")], { store: undefined });
    const other = await newDevice();
    await tune([right("right")], { store: undefined, isAnew: false, budgetMs: 0 }, other);
    expect(chosen(other)).toMatchObject({ id: "right", basis: "stored" });
    expect(chosen(other).why).toMatch(/from IndexedDB ringwise\)$/);
    other.destroy();
  });

  it("in IndexedDB, whatever else is found there", async () => {
    const name = `ringwise test ${Math.random()}`;
    const store = createIndexedDbStore(name);
    const record = await tune([right("right")], { store });
    const answer = <T>(request: IDBRequest<T>) =>
      new Promise<T>((resolve) => {
        request.onsuccess = () => resolve(request.result);
      });
    const database = await answer(indexedDB.open(name));
    const objects = database.transaction("tuned", "readwrite").objectStore("tuned");
    const [key] = (await answer(objects.getAllKeys())) as [string];
    expect(key).toContain(record!.shape);
    expect(await store.get(key)).toEqual(record);
    const found = await newDevice();
    await tune([right("right")], { store, isAnew: false, budgetMs: 0 }, found);
    expect(chosen(found).basis).toBe("stored");
    found.destroy();
    // A record that is none is as good as none, and is written over.
    await answer(database.transaction("tuned", "readwrite").objectStore("tuned").put({ rubbish: true }, key));
    database.close();
    expect((await tune([right("right")], { store, isAnew: true }))?.id).toBe("right");
    expect(await store.get(key)).toMatchObject({ id: "right" });
    await answer(indexedDB.deleteDatabase(name));
  });

  it.each([
    ["absent", undefined, /IndexedDB x failed: there is no IndexedDB here/],
    ["silent", { open: () => ({}) }, /IndexedDB x failed: opening it did not answer within 1000 ms/],
    [
      "forbidden",
      {
        open() {
          throw new DOMException("access denied", "SecurityError");
        },
      },
      /IndexedDB x failed: access denied/,
    ],
  ])("not where IndexedDB is %s: the choice stands, and says so", async (_name, factory, why) => {
    vi.stubGlobal("indexedDB", factory);
    expect((await tune([right("right")], { store: createIndexedDbStore("x") }))?.id).toBe("right");
    expect(chosen()).toMatchObject({ id: "right", basis: "measured" });
    expect(chosen().why).toMatch(why);
  });
});
