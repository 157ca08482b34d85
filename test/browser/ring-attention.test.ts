import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { allocate, release } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { ledgerOf } from "../../src/gpu/ledger.ts";
import { createAttentionStepper } from "../../src/kernels/attention-stepper.ts";
import { createRingAttention } from "../../src/ring/ring-attention.ts";
import type { RingAttentionOptions, RingTensors } from "../../src/ring/ring-types.ts";
import type { BlockMemory, RingLayout, RingStep } from "../../src/ring/types.ts";
import {
  type AttentionInputs,
  expectClose,
  expected,
  type GpuCase,
  makeInputs,
  optionsOf,
  uploadCase,
} from "../attention-harness.ts";
import type { AttentionCase } from "../cases.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});
afterAll(() => device.destroy());

const WORLDS = [1, 2, 3, 4, 7, 8, 64];
const LAYOUTS: RingLayout[] = ["contiguous", "zigzag", "striped"];

/** The options of a case, for a ring. */
function ringOptions(c: AttentionCase, ring: Partial<RingAttentionOptions>): RingAttentionOptions {
  const { layout: _layout, ...options } = optionsOf(c);
  return { ...options, ...ring };
}

/** A case's tensors for `ring.run`; K/V as host arrays where blocks are to live there. */
function ringTensors(c: AttentionCase, gpu: GpuCase, inputs: AttentionInputs, memory: BlockMemory): RingTensors {
  const { queryPositions: _positions, ...tensors } = gpu.tensors;
  const kv = memory === "host" ? { key: inputs.key, value: inputs.value } : {};
  return { ...tensors, ...kv, queryStart: c.queryStart ?? 0 };
}

async function collect(steps: AsyncIterable<RingStep>): Promise<RingStep[]> {
  const list: RingStep[] = [];
  for await (const step of steps) list.push(step);
  return list;
}

/** Small heads and few different masks: every mask is a kernel to compile, and how heads are computed is not the ring's. */
const shape = (
  name: string,
  seqLen: number,
  kvSeqLen: number,
  isCausal: boolean,
  rest: Partial<AttentionCase> = {},
): AttentionCase => ({
  ...{ name, use: "test", batch: 1, seqLen, kvSeqLen, heads: 4, kvHeads: 2, headDim: 4, dtype: "f32", isCausal },
  ...rest,
});

const CAUSAL = shape("causal", 67, 67, true);
const CASES = [
  shape("causal, chunk of a longer context", 19, 70, true, { queryStart: 51 }),
  shape("causal, batch, fewer keys than queries", 40, 9, true, { batch: 2 }),
  shape("all to all, batch", 37, 53, false, { batch: 2 }),
  shape("window", 80, 80, true, { window: 17 }),
  shape("window to both sides", 60, 60, false, { window: 9 }),
  shape("block-causal", 45, 45, true, { causalBlockSize: 8 }),
  shape("segments", 48, 48, true, { hasSegments: true, batch: 2 }),
  shape("kv lengths, rows that see nothing", 30, 50, false, { hasKvLengths: true, batch: 3 }),
  shape("additive mask", 28, 36, false, { mask: "additive", batch: 2 }),
  shape("everything", 34, 45, true, {
    ...{ batch: 2, headDim: 3, valueDim: 5, softcap: 5, window: 30, causalBlockSize: 3, hasSegments: true },
    ...{ hasKvLengths: true, hasSinks: true, mask: "boolean", queryStart: 11 },
  }),
];

describe("ring attention over a whole sequence equals the oracle", () => {
  const memories: BlockMemory[] = ["gpu", "host"];
  const worlds = WORLDS.flatMap((worldSize) =>
    LAYOUTS.flatMap((layout) => memories.map((memory) => [CAUSAL.name, worldSize, layout, memory, CAUSAL] as const)),
  );
  // Every mask meets four rings; together they go through all world sizes, layouts and memories.
  const masks = CASES.flatMap((c, index) =>
    [0, 1, 2, 3].map((turn) => {
      const n = index * 4 + turn;
      return [c.name, WORLDS[n % 7]!, LAYOUTS[(n + Math.floor(n / 7)) % 3]!, memories[turn % 2]!, c] as const;
    }),
  );
  it.each([...worlds, ...masks])("%s, %i ranks, %s, %s", async (_name, worldSize, layout, blockMemory, c) => {
    const inputs = makeInputs(c);
    const gpu = await uploadCase(device, c, inputs);
    const ring = await createRingAttention(device, ringOptions(c, { worldSize, layout, blockMemory, pageSize: 24 }));
    const steps = await collect(ring.run(ringTensors(c, gpu, inputs, blockMemory)));
    const got = await gpu.run(() => {});
    expectClose(got, expected(c, inputs), expected(c, inputs, "f32"), c.dtype);
    expect(got.output.some(Number.isNaN)).toBe(false);
    expect(steps).toHaveLength(worldSize * worldSize);
    ring.destroy();
    gpu.destroy();
  });

  it("a mask's columns count from the first key, unless it names another origin", async () => {
    const c = CASES.find(({ mask }) => mask === "additive")!;
    const inputs = makeInputs(c);
    const ring = await createRingAttention(device, ringOptions(c, { worldSize: 3, pageSize: 24 }));
    for (const origins of [{}, { queryOrigin: 110, kvOrigin: 100 }]) {
      const gpu = await uploadCase(device, c, inputs);
      const tensors = ringTensors(c, gpu, inputs, "gpu");
      // Nothing but the mask asks for positions here, so the oracle's may count from 0.
      const mask = { ...tensors.mask!, ...origins };
      await collect(ring.run({ ...tensors, mask, queryStart: 110, kvStart: 100 }));
      expectClose(await gpu.run(() => {}), expected(c, inputs), expected(c, inputs, "f32"), c.dtype);
      gpu.destroy();
    }
    ring.destroy();
  });

  it("a mask that does not cover the sequence is refused before any work", async () => {
    const c = CASES.find(({ mask }) => mask === "additive")!;
    const inputs = makeInputs(c);
    const ring = await createRingAttention(device, ringOptions(c, { worldSize: 2 }));
    const gpu = await uploadCase(device, c, inputs);
    const tensors = ringTensors(c, gpu, inputs, "gpu");
    const before = ledgerOf(device).total;
    for (const [shape, sizes] of [
      [[3, 36], "T 28"],
      [[28, 37], "S at most 36"],
    ] as const)
      await expect(collect(ring.run({ ...tensors, mask: { ...tensors.mask!, shape } }))).rejects.toThrow(
        new ShapeError(
          `RingAttention.run: expected mask of shape [T, S], [H, T, S] or [B, H, T, S] with ${sizes}, or 1 where broadcast, got [${shape.join(", ")}]`,
        ),
      );
    expect(ledgerOf(device).total).toEqual(before);
    ring.destroy();
    gpu.destroy();
  });

  const long = { ...CAUSAL, name: "long", seqLen: 1201, kvSeqLen: 1201 };
  it.each(LAYOUTS)("runs that are met in place, several pieces and pages per rank, %s", async (layout) => {
    const inputs = makeInputs(long);
    const gpu = await uploadCase(device, long, inputs);
    const ring = await createRingAttention(device, ringOptions(long, { worldSize: 2, layout, pageSize: 200 }));
    await collect(ring.run(ringTensors(long, gpu, inputs, "gpu")));
    expectClose(await gpu.run(() => {}), expected(long, inputs), expected(long, inputs, "f32"), "f32");
    ring.destroy();
    gpu.destroy();
  });

  it("K/V on the GPU may be read into host blocks", async () => {
    const c = CAUSAL;
    const inputs = makeInputs(c);
    const gpu = await uploadCase(device, c, inputs);
    const options = ringOptions(c, { worldSize: 3, layout: "striped", blockMemory: "host", pageSize: 16 });
    const ring = await createRingAttention(device, options);
    await collect(ring.run(ringTensors(c, gpu, inputs, "gpu")));
    expectClose(await gpu.run(() => {}), expected(c, inputs), expected(c, inputs, "f32"), c.dtype);
    ring.destroy();
    gpu.destroy();
  });

  it("a ring of one gives the very bits of plain attention", async () => {
    const c = CAUSAL;
    const inputs = makeInputs(c);
    const gpu = await uploadCase(device, c, inputs);
    const stepper = await createAttentionStepper(device, optionsOf(c));
    const state = await allocate(device, { label: "state", byteLength: stepper.stateByteLength(c.batch, c.seqLen) });
    const { output, lse, ...step } = gpu.tensors;
    const plain = await gpu.run((target) => {
      stepper.encodeStep(target, { ...step, state, isFirst: true });
      stepper.encodeFinalize(target, { state, output, lse, batch: c.batch, seqLen: c.seqLen });
    });
    const ring = await createRingAttention(device, ringOptions(c, {}));
    await collect(ring.run(ringTensors(c, gpu, inputs, "gpu")));
    const got = await gpu.run(() => {});
    expect(got.output).toEqual(plain.output);
    expect(got.lse).toEqual(plain.lse);
    ring.destroy();
    stepper.destroy();
    release(state);
    gpu.destroy();
  });
});
