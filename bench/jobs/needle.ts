/** The needle test: the default model asked for a line at every depth of texts of every length. */
import { describeAdapter, loadModel, type ModelSource, needleText, type RingOptions } from "../../src/index.ts";

/** A grid of depths and lengths. */
export interface NeedleJob {
  /** What to ask for, in this order: tokens of the prompt without BOS, and where the needle stands, 0 to 100. */
  cells: readonly { length: number; depth: number }[];
  ring: RingOptions;
  prefillChunkSize: number;
}

/** What became of one cell. */
export interface NeedleCell {
  length: number;
  depth: number;
  isFound: boolean;
  expected: string;
  answer: string;
  prefillSeconds: number;
  decodeTokensPerSecond: number;
  peakGpuBytes: number;
}

/** Asks for every needle; each cell has a text and a needle of its own. Resolves with the adapter's name. */
export async function runNeedle(
  device: GPUDevice,
  source: ModelSource,
  job: NeedleJob,
  emit: (cell: NeedleCell) => void,
): Promise<string> {
  const model = await loadModel(source, { device, ring: job.ring });
  try {
    for (const { length, depth } of job.cells) {
      const { text, question, answer: expected } = needleText({ length, depth, seed: length * 101 + depth });
      const { prefillChunkSize } = job;
      const run = model.generate(text + question, { maxNewTokens: expected.length + 8, prefillChunkSize });
      let answer = "";
      for await (const piece of run) answer += piece.text;
      // The sentence has to end where it ends in the text: the model stops by itself at the line break.
      const isFound = answer.trimEnd() === expected && run.statistics.stopReason === "stopId";
      const { promptTokens, prefillTokensPerSecond, decodeTokensPerSecond, peakGpuBytes } = run.statistics;
      const prefillSeconds = promptTokens / prefillTokensPerSecond;
      emit({ length, depth, isFound, expected, answer, prefillSeconds, decodeTokensPerSecond, peakGpuBytes });
    }
  } finally {
    model.destroy();
  }
  return describeAdapter(device).name;
}
