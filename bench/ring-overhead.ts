/** What it costs to turn a ring of buffers on one device rather than to meet K/V as one block. */
import { allocateAll, createAttention, createRingAttention, type RingLayout, release, write } from "../src/index.ts";
import { normals } from "./random.ts";
import { timeInTurn } from "./timing.ts";

/** A self-attention (B = 1, f32) to be computed both ways. */
export interface RingOverheadCase {
  heads: number;
  /** Default: `heads`. */
  kvHeads?: number;
  headDim: number;
  seqLen: number;
  isCausal: boolean;
  /** Default "zigzag". */
  layout?: RingLayout;
  /** Default 4. */
  worldSize?: number;
  /** Default 5. */
  repeats?: number;
}

/** Medians in milliseconds, and what they say. */
export interface RingOverhead {
  /** Fused attention over all keys at once. */
  oneBlockMs: number;
  /** The whole ring, with its events. */
  ringMs: number;
  /** ringMs / oneBlockMs: 1.05 is the most it should be. */
  ratio: number;
  /** The larger of both spreads: distance of the quartiles as a share of the median. */
  spread: number;
}

/** Times both in turn. @throws {GpuMemoryError} where the case does not fit. */
export async function measureRingOverhead(device: GPUDevice, shape: RingOverheadCase): Promise<RingOverhead> {
  const { heads, kvHeads = heads, headDim, seqLen, isCausal, layout, worldSize = 4, repeats = 5 } = shape;
  const queryLength = seqLen * heads * headDim;
  const kvLength = seqLen * kvHeads * headDim;
  const lengths = { query: queryLength, key: kvLength, value: kvLength, output: queryLength };
  const buffers = await allocateAll(
    device,
    Object.entries(lengths).map(([name, length]) => ({ label: `bench ${name}`, byteLength: length * 4 })),
  );
  const [query, key, value, output] = buffers as [GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer];
  for (const [index, buffer] of [query, key, value].entries())
    write(device, buffer, 0, normals(buffer.size / 4, index + 1));
  const options = { heads, kvHeads, headDim, isCausal };
  const attention = await createAttention(device, options);
  const ring = await createRingAttention(device, { ...options, layout, worldSize });
  const tensors = { query, key, value, output, batch: 1, seqLen, kvSeqLen: seqLen };
  try {
    const times = await timeInTurn(
      device,
      [
        { name: "one block", encode: (encoder) => attention.encode(encoder, tensors) },
        {
          name: "ring",
          run: async () => {
            let steps = 0;
            for await (const _ of ring.run(tensors)) steps++;
            if (steps !== worldSize ** 2)
              throw new Error(`measureRingOverhead: ${steps} steps of a ring of ${worldSize}`);
          },
        },
      ],
      { warmups: 2, repeats, minSampleMs: 20 },
    );
    const oneBlock = times.get("one block")!;
    const turned = times.get("ring")!;
    return {
      oneBlockMs: oneBlock.median,
      ringMs: turned.median,
      ratio: turned.median / oneBlock.median,
      spread: Math.max(oneBlock.spread, turned.spread),
    };
  } finally {
    ring.destroy();
    attention.destroy();
    for (const buffer of buffers) release(buffer);
  }
}
