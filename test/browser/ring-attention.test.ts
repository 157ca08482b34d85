import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { allocate, release } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
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
import { type AttentionCase, TEST_CASES } from "../cases.ts";

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

const bthdCases = TEST_CASES.filter((c) => c.layout !== "bhtd");

describe("ring attention over a whole sequence equals the oracle", () => {
  // Every case meets two rings; together they go through all world sizes, layouts and memories.
  const runs = bthdCases.flatMap((c, index) =>
    [0, 1].map((turn) => {
      const n = index * 2 + turn;
      const memory: BlockMemory = turn === 0 ? "gpu" : "host";
      return [c.name, WORLDS[n % 7]!, LAYOUTS[(n + Math.floor(n / 7)) % 3]!, memory, c] as const;
    }),
  );
  it.each(runs)("%s, %i ranks, %s, %s", async (_name, worldSize, layout, blockMemory, c) => {
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

  const long: AttentionCase = {
    ...{ name: "long", use: "test", batch: 1, seqLen: 1201, kvSeqLen: 1201, heads: 2, kvHeads: 1, headDim: 8 },
    ...{ dtype: "f32", isCausal: true },
  };
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
    const c = bthdCases.find((candidate) => candidate.name === "gqa")!;
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
    const c = bthdCases.find((candidate) => candidate.name === "head-dim-64")!;
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
