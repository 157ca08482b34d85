/** The small kernels (norms, rotations, copies, merges): bytes read a second, in turn with the adapter's read bandwidth. */

import type { CommandTarget } from "../../src/index.ts";
import { allocateAll, createAttentionStepper, createRmsNorm, createRope, release, write } from "../../src/index.ts";
import { createAdd } from "../../src/kernels/add.ts";
import { createArgmax } from "../../src/kernels/argmax.ts";
import { createTokenCopier } from "../../src/kernels/copy-tokens.ts";
import { createEmbed } from "../../src/kernels/embed.ts";
import { createWireConverter } from "../../src/kernels/wire-f16.ts";
import { normals } from "../random.ts";
import type { BenchJob, BenchResult } from "../result-types.ts";
import { createPeaks } from "./beside-peaks.ts";
import { kernelsUsed } from "./kernels-used.ts";

/** Tokens and width of the tensors: 16 MiB each, more than a cache holds. */
const TOKENS = 4096;
const WIDTH = 1024;
const HEADS = 16;
const HEAD_DIM = WIDTH / HEADS;
const FLOATS = TOKENS * WIDTH;
const STATE_PARTS = 4;
const STATE_TOKENS = TOKENS / STATE_PARTS;

/** One kernel with its buffers in place. */
interface Prepared {
  encode(target: CommandTarget): void;
  /** Bytes that one run must read. */
  readBytes: number;
  flops: number;
  destroy?(): void;
}

/** What a kernel is given: two tensors of 16 MiB (the second one written to), a third of as much again, small ones. */
interface Tensors {
  input: GPUBuffer;
  output: GPUBuffer;
  /** Token ids, cos and sin, weights: 4 MiB, numbers between 0 and 1 or ids below {@link TOKENS}. */
  small: GPUBuffer;
  ids: GPUBuffer;
}

const rows = { rows: TOKENS, width: WIDTH };
const bytes = 4 * FLOATS;

const PREPARE: Record<string, (device: GPUDevice, tensors: Tensors) => Promise<Prepared>> = {
  async add(device, { input, output }) {
    const add = await createAdd(device);
    return { encode: (to) => add.encode(to, { input, output, count: FLOATS }), readBytes: 2 * bytes, flops: FLOATS };
  },
  async argmax(device, { input, ids }) {
    const argmax = await createArgmax(device);
    return { encode: (to) => argmax.encode(to, { input, output: ids, ...rows }), readBytes: bytes, flops: FLOATS };
  },
  async embed(device, { input, output, ids }) {
    const embed = await createEmbed(device, { weightDtype: "f32" });
    const call = { table: input, ids, output, tokens: TOKENS, vocabSize: TOKENS, width: WIDTH };
    return { encode: (to) => embed.encode(to, call), readBytes: bytes, flops: 0 };
  },
  async rmsnorm(device, { input, output, small }) {
    const norm = await createRmsNorm(device, { eps: 1e-5, weightDtype: "f32" });
    return {
      encode: (to) => norm.encode(to, { input, output, weight: small, ...rows }),
      ...{ readBytes: 2 * bytes, flops: 4 * FLOATS },
    };
  },
  async rope(device, { input, output, small }) {
    const rope = await createRope(device, { headDim: HEAD_DIM });
    const call = { input, output, table: small, seqLen: TOKENS, heads: HEADS };
    return { encode: (to) => rope.encode(to, call), readBytes: bytes + 4 * TOKENS * HEAD_DIM, flops: 3 * FLOATS };
  },
  async "copy-tokens"(device, { input, output }) {
    const copier = await createTokenCopier(device, "f32");
    // Heads apart: from token-major to head-major, as blocks are gathered.
    const call = {
      ...{ source: input, sourceStrides: { outer: HEAD_DIM, token: WIDTH } },
      ...{ target: output, targetStrides: { outer: TOKENS * HEAD_DIM, token: HEAD_DIM } },
      ...{ outer: HEADS, tokens: TOKENS, width: HEAD_DIM },
    };
    return { encode: (to) => copier.encode(to, call), readBytes: bytes, flops: 0 };
  },
  async "wire-f16"(device, { input, output }) {
    const wire = await createWireConverter(device);
    const call = { source: input, target: output, count: FLOATS };
    return { encode: (to) => wire.encodeHalve(to, call), readBytes: bytes, flops: 0 };
  },
  async finalize(device, { input, output }) {
    const stepper = await createAttentionStepper(device, { heads: HEADS, headDim: HEAD_DIM });
    const call = { state: input, output, batch: 1, seqLen: STATE_TOKENS };
    return {
      encode: (to) => stepper.encodeFinalize(to, call),
      ...{ readBytes: stepper.stateByteLength(1, STATE_TOKENS), flops: STATE_TOKENS * WIDTH },
      destroy: () => stepper.destroy(),
    };
  },
  async merge(device, { input, output }) {
    const stepper = await createAttentionStepper(device, { heads: HEADS, headDim: HEAD_DIM });
    const seqLen = STATE_TOKENS / 2;
    const partByteStride = stepper.stateByteLength(1, seqLen);
    const call = { states: input, parts: STATE_PARTS, partByteStride, batch: 1, seqLen, into: output };
    return {
      encode: (to) => stepper.encodeMerge(to, call),
      ...{ readBytes: STATE_PARTS * partByteStride, flops: 2 * STATE_PARTS * seqLen * WIDTH },
      destroy: () => stepper.destroy(),
    };
  },
};

/** Names of the cases. */
export const KERNEL_CASE_NAMES: readonly string[] = Object.keys(PREPARE).map((name) => `kernel-${name}`);

/** Measures one small kernel. Its correctness is the tests' business. @throws {RangeError} for a name that is no case's. */
export async function measureKernel(device: GPUDevice, job: BenchJob, name: string): Promise<BenchResult[]> {
  const prepare = PREPARE[name.replace(/^kernel-/, "")];
  if (!prepare) throw new RangeError(`measureKernel: no kernel case named "${name}"`);
  const buffers = await allocateAll(device, [
    ...["input", "output"].map((label) => ({ label: `bench kernel ${label}`, byteLength: bytes })),
    ...["small", "ids"].map((label) => ({ label: `bench kernel ${label}`, byteLength: 4 * TOKENS * HEAD_DIM })),
  ]);
  const [input, output, small, ids] = buffers as [GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer];
  write(device, input, 0, normals(FLOATS, 1).map(Math.abs));
  write(device, small, 0, normals(TOKENS * HEAD_DIM, 2));
  write(
    device,
    ids,
    0,
    Uint32Array.from({ length: TOKENS }, (_, index) => (index * 2053) % TOKENS),
  );
  try {
    const kernel = await prepare(device, { input, output, small, ids });
    const peaks = await createPeaks(device, kernel);
    try {
      const encode = (target: GPUCommandEncoder) => kernel.encode(target);
      const { timeMs, readGBps, readPeakGBps, bandwidthShare } = await peaks.time(job, encode);
      return [
        {
          ...{ case: name, group: "bandwidth", dtype: "f32", implementation: "kernel" },
          ...{ timeMs, readGBps, readPeakGBps, bandwidthShare },
          kernels: kernelsUsed(device, encode),
        },
      ];
    } finally {
      peaks.destroy();
      kernel.destroy?.();
    }
  } finally {
    for (const buffer of buffers) release(buffer);
  }
}
