/** `generate` again and again in one page: memory on the GPU and in JavaScript must stay where it is after the first runs. */
import { ledgerOf, loadModel, type ModelSource, needleText, type RingOptions } from "../../src/index.ts";

/** How long, and on what ring. */
export interface SoakJob {
  minutes: number;
  /** Tokens of each prompt. */
  length: number;
  ring: RingOptions;
}

/** The state after one run. */
export interface SoakSample {
  run: number;
  elapsedMs: number;
  /** Bytes held between runs, and at most during the last one. */
  gpuBytes: number;
  peakGpuBytes: number;
  decodeTokensPerSecond: number;
  isRight: boolean;
}

/** Generates until the time is over, a new text each time; resolves with the number of runs. */
export async function runSoak(
  device: GPUDevice,
  source: ModelSource,
  job: SoakJob,
  emit: (sample: SoakSample) => void,
): Promise<number> {
  const startMs = performance.now();
  const model = await loadModel(source, { device, ring: job.ring });
  const ledger = ledgerOf(device);
  let run = 0;
  try {
    while (performance.now() - startMs < job.minutes * 60_000) {
      const { text, question, answer } = needleText({ length: job.length, depth: (run * 37) % 101, seed: run });
      ledger.resetPeaks();
      const generation = model.generate(text + question, { maxNewTokens: answer.length + 8 });
      let got = "";
      for await (const piece of generation) got += piece.text;
      run++;
      const { bytes, peakBytes } = ledger.total;
      emit({
        ...{ run, elapsedMs: performance.now() - startMs, gpuBytes: bytes, peakGpuBytes: peakBytes },
        decodeTokensPerSecond: generation.statistics.decodeTokensPerSecond,
        isRight: got.startsWith(answer),
      });
    }
  } finally {
    model.destroy();
  }
  return run;
}
