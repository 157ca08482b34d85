/**
 * One run of `generate` on a device: the same code in the page that the command line drives and in Node. Only the public
 * API is used.
 */
import {
  type AttentionKind,
  type BlockMemory,
  describeAdapter,
  type GenerateStatistics,
  loadModel,
  type ModelSource,
  type Prompt,
  type RingLayout,
} from "../index.ts";
import { gatherAnswer, type JobEvent, sayLoad, sayPrefill, throttled } from "./job-progress.ts";

/** What to generate; plain data, so that it can be sent into a page. */
export interface GenerateJob {
  prompt: Prompt;
  addBos: boolean;
  maxNewTokens: number;
  temperature: number;
  topP: number;
  topK: number;
  seed: number;
  worldSize: number;
  layout: RingLayout;
  blockMemory: BlockMemory;
  attention: AttentionKind;
  token?: string;
}

/** What `ringwise generate --json` prints. */
export interface GenerateResult extends Omit<GenerateStatistics, "newTokens"> {
  model: string;
  adapter: string;
  /** The new tokens' ids, without the prompt's. */
  tokenIds: number[];
  /** The new tokens' text. */
  text: string;
}

/** Loads the model, generates, and gives everything back. @throws whatever loading and generating throw. */
export async function runGenerate(
  device: GPUDevice,
  source: ModelSource,
  job: GenerateJob,
  emit: (event: JobEvent) => void,
  signal?: AbortSignal,
): Promise<GenerateResult> {
  const progress = throttled((message) => emit({ type: "progress", message }));
  const { worldSize, layout, blockMemory, attention, token } = job;
  const model = await loadModel(source, {
    device,
    ring: { worldSize, layout, blockMemory, attention },
    token,
    signal,
    onProgress: (loading) => progress(sayLoad(loading)),
  });
  try {
    const run = model.generate(job.prompt, {
      maxNewTokens: job.maxNewTokens,
      temperature: job.temperature,
      topP: job.topP,
      topK: job.topK,
      seed: job.seed,
      addBos: job.addBos,
      signal,
      onProgress: sayPrefill(progress),
    });
    const { tokenIds, text } = await gatherAnswer(run, emit);
    const { newTokens: _, ...statistics } = run.statistics;
    return { model: model.name, adapter: describeAdapter(device).name, ...statistics, tokenIds, text };
  } finally {
    model.destroy();
  }
}
