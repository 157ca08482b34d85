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

/** What a run tells while it goes. */
export type JobEvent = { type: "progress"; message: string } | { type: "piece"; text: string };

/** What `ringwise generate --json` prints. */
export interface GenerateResult extends Omit<GenerateStatistics, "newTokens"> {
  model: string;
  adapter: string;
  /** The new tokens' ids, without the prompt's. */
  tokenIds: number[];
  /** The new tokens' text. */
  text: string;
}

/** Progress lines at most this often. */
const PROGRESS_INTERVAL_MS = 500;

/** Loads the model, generates, and gives everything back. @throws whatever loading and generating throw. */
export async function runGenerate(
  device: GPUDevice,
  source: ModelSource,
  job: GenerateJob,
  emit: (event: JobEvent) => void,
  signal?: AbortSignal,
): Promise<GenerateResult> {
  let lastMs = Number.NEGATIVE_INFINITY;
  const progress = (message: string, isLast = false) => {
    if (!isLast && performance.now() - lastMs < PROGRESS_INTERVAL_MS) return;
    lastMs = performance.now();
    emit({ type: "progress", message });
  };
  const { worldSize, layout, blockMemory, attention, token } = job;
  const model = await loadModel(source, {
    device,
    ring: { worldSize, layout, blockMemory, attention },
    token,
    signal,
    onProgress: ({ message, loadedBytes, totalBytes }) =>
      progress(totalBytes > 0 ? `${message} (${Math.floor((100 * loadedBytes) / totalBytes)}%)` : message),
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
      onProgress: (event) => {
        if (event.type !== "prefill") return;
        const { doneTokens, totalTokens, tokensPerSecond, secondsLeft } = event;
        // Before the first chunk is done there is no pace to tell.
        const pace = doneTokens > 0 ? `, ${tokensPerSecond.toFixed(0)} tokens/s, ${secondsLeft.toFixed(0)} s left` : "";
        progress(`prefill ${doneTokens}/${totalTokens} tokens${pace}`, doneTokens === totalTokens);
      },
    });
    const tokenIds: number[] = [];
    let text = "";
    for await (const piece of run) {
      tokenIds.push(piece.tokenId);
      text += piece.text;
      if (piece.text) emit({ type: "piece", text: piece.text });
    }
    const { newTokens: _, ...statistics } = run.statistics;
    return { model: model.name, adapter: describeAdapter(device).name, ...statistics, tokenIds, text };
  } finally {
    model.destroy();
  }
}
