/** Which kernel is chosen without a measurement, under what a measurement is kept, and the shipped data's file. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { mergeShipped, writeShipped } from "../../src/cli/tuned-data-file.ts";
import { OptionError, UnsupportedDeviceError } from "../../src/errors.ts";
import { resolveAttention } from "../../src/kernels/attention-options.ts";
import type { AttentionOptions } from "../../src/kernels/attention-types.ts";
import { ATTENTION_CANDIDATES, SAFE_CHOICES } from "../../src/kernels/candidates.ts";
import { chooseKernel, rememberChoice } from "../../src/kernels/tiles.ts";
import { attentionCandidates, trialOrder } from "../../src/kernels/tune.ts";
import shippedData from "../../src/kernels/tuned-data.json";
import {
  adapterKey,
  kernelsKey,
  LIBRARY_VERSION,
  nearClasses,
  shapeClass,
  storedAdapterKey,
} from "../../src/kernels/tuned-key.ts";
import { parseRecord, type ShippedAdapter, type TunedRecord } from "../../src/kernels/tuned-record.ts";

interface Fake {
  vendor?: string;
  architecture?: string;
  subgroups?: [min: number, max: number];
  isCpu?: boolean;
  workgroupBytes?: number;
  invocations?: number;
}

/** What choosing reads of a device, and nothing else. */
function fakeDevice({ vendor = "acme", architecture = "one", subgroups, ...rest }: Fake = {}): GPUDevice {
  const { isCpu = false, workgroupBytes = 16_384, invocations = 256 } = rest;
  return {
    adapterInfo: {
      ...{ vendor, architecture, description: "", device: "", isFallbackAdapter: isCpu },
      ...{ subgroupMinSize: subgroups?.[0], subgroupMaxSize: subgroups?.[1] },
    },
    features: new Set(subgroups ? ["subgroups"] : []),
    limits: {
      ...{ maxComputeWorkgroupStorageSize: workgroupBytes, maxComputeInvocationsPerWorkgroup: invocations },
      ...{ maxComputeWorkgroupSizeX: invocations, maxBufferSize: 2 ** 28 },
    },
  } as unknown as GPUDevice;
}

const SWIFTSHADER: Fake = { vendor: "google", architecture: "swiftshader", subgroups: [4, 4], isCpu: true };
const options = (rest: Partial<AttentionOptions> = {}) => resolveAttention("test", { heads: 8, headDim: 64, ...rest });
const choose = (
  device: GPUDevice,
  rest: Partial<AttentionOptions> = {},
  work: "many-rows" | "few-rows" = "many-rows",
) => chooseKernel(device, options(rest), work);

describe("the list of candidates", () => {
  it("has every id once, and the safe choices name candidates", () => {
    const ids = ATTENTION_CANDIDATES.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { id } of SAFE_CHOICES) expect(ids).toContain(id);
  });

  it("holds what is shipped: known kernels that do the class's work, under keys of adapters", () => {
    for (const { adapter, choices } of shippedData as readonly unknown[] as ShippedAdapter[]) {
      expect(adapter).toMatch(/^\S+\/\S+ (cpu|gpu) subgroups \d+-\d+$/);
      for (const [shape, id] of Object.entries(choices)) {
        const candidate = ATTENTION_CANDIDATES.find((other) => other.id === id);
        expect(
          candidate?.works.some((work) => shape.endsWith(work)),
          `${shape}: ${id}`,
        ).toBe(true);
      }
    }
  });

  it("tells which of them a device does not run, and why", () => {
    const told = attentionCandidates(fakeDevice({ workgroupBytes: 8192 }), { heads: 8, headDim: 128 });
    expect(told.find(({ id }) => id === "tile-64x32")?.unmet).toBe(
      "needs 16384 bytes of workgroup memory, the device allows 8192",
    );
    expect(told.find(({ id }) => id === "tile-64x16")?.unmet).toBeUndefined();
    expect(told.find(({ id }) => id === "register-8x16-quad")?.unmet).toBe(
      "needs subgroups of at least 4, the device has none",
    );
  });
});

describe("an adapter that nobody measured", () => {
  it("gets a kernel that its limits allow", () => {
    expect(choose(fakeDevice())).toMatchObject({ id: "tile-64x32", basis: "safe", rows: 64, unitsPerWorkgroup: 1 });
    expect(choose(fakeDevice(), { headDim: 256 }).id).toBe("tile-64x16");
    expect(choose(fakeDevice({ workgroupBytes: 8192 }), { headDim: 256 }).id).toBe("tile-64x8");
    // A workgroup of 64 is not there at all.
    expect(choose(fakeDevice({ invocations: 32 })).id).toBe("register-8x16");
  });

  it("on a CPU: registers, by quads where there are subgroups", () => {
    const cpu = { architecture: "unheard-of", isCpu: true };
    expect(choose(fakeDevice({ ...cpu, subgroups: [4, 4] }), { headDim: 5 }).id).toBe("register-8x16-quad");
    expect(choose(fakeDevice({ ...cpu, subgroups: [4, 8] }), { headDim: 64 }).id).toBe("register-8x16-quad");
    expect(choose(fakeDevice(cpu), { headDim: 5 })).toMatchObject({ id: "register-8x16", quads: false });
  });

  it("says so", () => {
    expect(choose(fakeDevice({ isCpu: true }), { isCausal: true }).why).toBe(
      "safe for a CPU adapter: no measurement of f32 d64 causal long many-rows on this adapter",
    );
  });
});

describe("what comes first", () => {
  it("a forced candidate, for the work that it does", () => {
    const device = fakeDevice(SWIFTSHADER);
    const forced = { candidate: "tile-32x32" };
    expect(choose(device, forced)).toMatchObject({ id: "tile-32x32", basis: "forced" });
    expect(choose(device, { candidate: "few-4x16-wg32" }).basis).not.toBe("forced");
    expect(choose(device, { candidate: "few-4x16-wg32" }, "few-rows").id).toBe("few-4x16-wg32");
    expect(() => choose(device, { candidate: "nobody" })).toThrow(OptionError);
    expect(() => choose(fakeDevice(), { candidate: "register-8x16-quad" })).toThrow(
      'attention: candidate "register-8x16-quad" needs subgroups of at least 4, the device has none',
    );
  });

  it("a forced design, before what was measured for any design", () => {
    const device = fakeDevice(SWIFTSHADER);
    const candidate = ATTENTION_CANDIDATES.find(({ id }) => id === "register-8x16-wg64")!;
    rememberChoice(device, shapeClass(options(), "many-rows"), { candidate, basis: "measured", why: "it was" });
    expect(choose(device)).toMatchObject({ id: "register-8x16-wg64", basis: "measured", why: "it was" });
    for (const design of ["tile", "register", "subgroup"] as const) {
      const { id } = choose(device, { design });
      expect(ATTENTION_CANDIDATES.find((other) => other.id === id)?.designs).toContain(design);
    }
    expect(choose(device, { isCausal: true }).basis).not.toBe("measured");
    expect(() => choose(fakeDevice(), { design: "subgroup" })).toThrow(UnsupportedDeviceError);
  });
});

describe("keys", () => {
  it("keep a CPU adapter and a GPU apart, and adapters that say nothing out of the shipped data", () => {
    const gpu = adapterKey(fakeDevice({ ...SWIFTSHADER, isCpu: false, architecture: "other" }));
    expect(adapterKey(fakeDevice(SWIFTSHADER))).toBe("google/swiftshader cpu subgroups 4-4");
    expect(gpu).toBe("google/other gpu subgroups 4-4");
    const nameless = { vendor: "", architecture: "" };
    expect(adapterKey(fakeDevice(nameless))).toBeUndefined();
    expect(storedAdapterKey(fakeDevice(nameless))).not.toBe(storedAdapterKey(fakeDevice({ ...nameless, isCpu: true })));
  });

  it("classes of shapes: what changes the ranking, and nothing else", () => {
    const many = (rest: Partial<AttentionOptions>) => shapeClass(options(rest), "many-rows");
    expect(many({})).toBe("f32 d64 full long many-rows");
    expect(many({ headDim: 80, valueDim: 72, dtype: "f16", isCausal: true, expectedSeqLen: 300 })).toBe(
      "f16 d96 causal short many-rows",
    );
    expect(many({ headDim: 5, window: 9, isCausal: true })).toBe("f32 d16 odd window long many-rows");
    expect(many({ heads: 2, scale: 3, softcap: 2, layout: "bhtd", hasSinks: true })).toBe(many({}));
    expect(many({ mask: "additive" })).toBe("f32 d64 full pairs long many-rows");
    expect(many({ design: "tile" })).toBe("f32 d64 full long many-rows design tile");
    expect(shapeClass(options({ kvHeads: 2, isCausal: true }), "few-rows")).toBe("f32 d64 g4 long few-rows");
  });

  it("have neighbours that stand in for them", () => {
    expect(nearClasses("f32 d64 full long many-rows")).toEqual([
      ...["f32 d64 full long many-rows", "f32 d64 full short many-rows"],
    ]);
    expect(nearClasses("f32 d64 g2 pairs short few-rows")).toEqual([
      ...["f32 d64 g2 pairs short few-rows", "f32 d64 g2 pairs long few-rows"],
      ...["f32 d64 g2 short few-rows", "f32 d64 g2 long few-rows"],
    ]);
  });

  it("another list of kernels, or another text, makes records old; comments do not", () => {
    const [first] = ATTENTION_CANDIDATES;
    const key = (code: string) => kernelsKey([{ ...first!, source: { file: "a.wgsl", code } }]);
    expect(key("fn a() {} // once")).toBe(key("fn a() {} // twice"));
    expect(key("fn a() {}")).not.toBe(key("fn b() {}"));
    expect(kernelsKey(ATTENTION_CANDIDATES)).not.toBe(kernelsKey(ATTENTION_CANDIDATES.slice(1)));
  });

  it("carry the version of package.json", () => {
    const root = new URL("../../package.json", import.meta.url);
    expect(LIBRARY_VERSION).toBe((JSON.parse(readFileSync(root, "utf8")) as { version: string }).version);
  });
});

it("tries the safe candidate first, then each design in turn; on CPU adapters workgroup tiles last", () => {
  const pick = (...ids: string[]) => ids.map((id) => ATTENTION_CANDIDATES.find((candidate) => candidate.id === id)!);
  const can = pick("register-8x16-quad", "register-8x16", "tile-64x32", "tile-64x16", "register-8x16-wg64");
  const order = (safe: string, isCpu: boolean) => trialOrder(can, pick(safe)[0]!, isCpu).map(({ id }) => id);
  expect(order("tile-64x32", false)).toEqual([
    ...["tile-64x32", "register-8x16-quad", "register-8x16", "tile-64x16", "register-8x16-wg64"],
  ]);
  expect(order("register-8x16-quad", true)).toEqual([
    ...["register-8x16-quad", "register-8x16", "register-8x16-wg64", "tile-64x32", "tile-64x16"],
  ]);
});

it("merges shipped data: an adapter's classes that were not tuned now stay, other adapters are left alone", () => {
  const entry = (adapter: string, date: string, choices: Record<string, string>): ShippedAdapter => ({
    ...{ adapter, driver: "d", library: "1", date, choices },
  });
  const other = entry("b/b gpu subgroups 32-32", "2026-01-01", { x: "1" });
  const before = [other, entry("a/a cpu subgroups 4-4", "2026-01-01", { z: "1", x: "1" })];
  expect(mergeShipped(before, entry("a/a cpu subgroups 4-4", "2026-02-02", { x: "2", y: "3" }))).toEqual([
    entry("a/a cpu subgroups 4-4", "2026-02-02", { x: "2", y: "3", z: "1" }),
    other,
  ]);
});

it("writes the data file anew, whole", () => {
  const folder = mkdtempSync(join(tmpdir(), "ringwise-shipped-"));
  const file = join(folder, "tuned-data.json");
  const entry = {
    adapter: "a/a gpu subgroups 8-8",
    driver: "d",
    library: "1",
    date: "2026-01-01",
    choices: { x: "1" },
  };
  try {
    writeFileSync(file, "[]\n");
    writeShipped(file, entry);
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual([entry]);
    writeFileSync(file, "[broken");
    expect(() => writeShipped(file, entry)).toThrow(SyntaxError);
    expect(readdirSync(folder)).toEqual(["tuned-data.json"]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

it("takes for a record only what is one", () => {
  const record: TunedRecord = {
    ...{ version: 1, adapter: "a", driver: "d", library: "l", kernels: "k", shape: "s", id: "i" },
    ...{ measuredOn: "m", date: "2026", candidates: [] },
  };
  expect(parseRecord(record)).toBe(record);
  for (const other of [undefined, null, "x", 3, [], {}, { ...record, version: 2 }, { ...record, id: 7 }])
    expect(parseRecord(other)).toBeUndefined();
});
