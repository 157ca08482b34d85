/** Tokens a second of the original system's named sizes, with random weights. */
import { ledgerOf, loadPreset, type PresetName, type RingOptions } from "../../src/index.ts";
import type { BenchResult } from "../result-types.ts";

/** A preset with a prompt and an answer of these lengths. */
export interface ModelCase {
  name: string;
  preset: PresetName;
  promptTokens: number;
  newTokens: number;
  ring: RingOptions;
}

/** Loads the preset, reads a prompt of random ids and answers. @throws {GpuMemoryError} where it does not fit. */
export async function measureModel(device: GPUDevice, shape: ModelCase): Promise<BenchResult[]> {
  const model = await loadPreset(shape.preset, { device, ring: shape.ring });
  try {
    const prompt = Array.from({ length: shape.promptTokens }, (_, index) => (index * 7919 + 3) % 256);
    ledgerOf(device).resetPeaks();
    const run = model.generate(prompt, { maxNewTokens: shape.newTokens });
    for await (const _ of run);
    const { prefillTokensPerSecond, decodeTokensPerSecond, timeToFirstTokenMs, peakGpuBytes } = run.statistics;
    const { worldSize = 1, layout = "zigzag" } = shape.ring;
    return [
      {
        ...{ case: shape.name, group: "model", implementation: `${shape.preset}, ring of ${worldSize}, ${layout}` },
        figures: {
          promptTokens: shape.promptTokens,
          ...{ prefillTokensPerSecond, decodeTokensPerSecond, timeToFirstTokenMs, peakGpuBytes },
        },
      },
    ];
  } finally {
    model.destroy();
  }
}
