/** Peak bytes of the chunked MLP as the sequence grows: beyond input, output and weights it must stay flat. */
import { allocateAll, createMlp, ledgerOf, release, write } from "../../src/index.ts";
import { normals } from "../random.ts";
import type { BenchJob, BenchResult } from "../result-types.ts";
import { timeInTurn } from "../timing.ts";

const HIDDEN_SIZE = 256;
const INTERMEDIATE_SIZE = 1024;
const CHUNK_SIZE = 256;

/** Lengths that are measured: from one chunk to sixty-four. */
export const MLP_LENGTHS = [256, 1024, 4096, 16_384] as const;

/** SwiGLU of `tokens` tokens: time, and peak bytes beyond what the caller holds. @throws {GpuMemoryError} */
export async function measureMlp(device: GPUDevice, job: BenchJob, tokens: number): Promise<BenchResult[]> {
  const weightLength = HIDDEN_SIZE * INTERMEDIATE_SIZE;
  const lengths = [tokens * HIDDEN_SIZE, tokens * HIDDEN_SIZE, weightLength, weightLength, weightLength];
  const labels = ["input", "output", "gate", "up", "down"];
  const buffers = await allocateAll(
    device,
    lengths.map((length, index) => ({ label: `bench mlp ${labels[index]}`, byteLength: 4 * length })),
  );
  const [input, output, gate, up, down] = buffers as [GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer];
  try {
    for (const [buffer, seed] of [input, gate, up, down].map((buffer, index) => [buffer, index] as const))
      write(device, buffer, 0, normals(buffer.size / 4, seed));
    const create = () =>
      createMlp(device, {
        ...{ hiddenSize: HIDDEN_SIZE, intermediateSize: INTERMEDIATE_SIZE, mlpChunkSize: CHUNK_SIZE },
        ...{ activation: "silu", gated: true, weightDtype: "f32" },
      });
    const tensors = { input, output, gate, up, down, tokens };
    // Once for nothing: what a device makes only once (uniforms, pipelines) is no cost of this case.
    (await create()).destroy();
    const ledger = ledgerOf(device);
    const heldBytes = ledger.total.bytes;
    ledger.resetPeaks();
    const mlp = await create();
    try {
      const times = await timeInTurn(device, [{ name: "mlp", encode: (encoder) => mlp.encode(encoder, tensors) }], job);
      const timeMs = times.get("mlp")!;
      const extraBytes = ledger.total.peakBytes - heldBytes;
      const tensorBytes = lengths.reduce((sum, length) => sum + 4 * length, 0);
      return [
        {
          ...{ case: `mlp-${tokens}`, group: "memory", implementation: `SwiGLU, chunks of ${CHUNK_SIZE}` },
          ...{ timeMs, seqLen: tokens, tensorBytes, extraBytes, extraShare: extraBytes / tensorBytes },
          gflops: (6 * tokens * weightLength) / timeMs.median / 1e6,
        },
      ];
    } finally {
      mlp.destroy();
    }
  } finally {
    for (const buffer of buffers) release(buffer);
  }
}
