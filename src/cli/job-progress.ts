/** What every job of `generate` shares, on one device or over peers: progress lines, and an answer gathered from its pieces. */
import type { GeneratedPiece, GenerateProgress, LoadProgress } from "../index.ts";

/** What a run tells while it goes. */
export type JobEvent = { type: "progress"; message: string } | { type: "piece"; text: string };

/** Says a line of progress; the last one of its kind is never left out. */
export type Progress = (message: string, isLast?: boolean) => void;

/** Progress lines at most this often. */
const PROGRESS_INTERVAL_MS = 500;

/** Says progress, at most every half second. */
export function throttled(emit: (message: string) => void): Progress {
  let lastMs = Number.NEGATIVE_INFINITY;
  return (message, isLast = false) => {
    if (!isLast && performance.now() - lastMs < PROGRESS_INTERVAL_MS) return;
    lastMs = performance.now();
    emit(message);
  };
}

/** "Loading weights: ... (40%)" */
export const sayLoad = ({ message, loadedBytes, totalBytes }: LoadProgress): string =>
  totalBytes > 0 ? `${message} (${Math.floor((100 * loadedBytes) / totalBytes)}%)` : message;

/** For `GenerateOptions.onProgress`: "prefill 512/4096 tokens, 800 tokens/s, 4 s left". */
export const sayPrefill =
  (progress: Progress) =>
  (event: GenerateProgress): void => {
    if (event.type !== "prefill") return;
    const { doneTokens, totalTokens, tokensPerSecond, secondsLeft } = event;
    // Before the first chunk is done there is no pace to tell.
    const pace = doneTokens > 0 ? `, ${tokensPerSecond.toFixed(0)} tokens/s, ${secondsLeft.toFixed(0)} s left` : "";
    progress(`prefill ${doneTokens}/${totalTokens} tokens${pace}`, doneTokens === totalTokens);
  };

/** The whole answer, told piece by piece as it comes. */
export async function gatherAnswer(
  run: AsyncIterable<GeneratedPiece>,
  emit: (event: JobEvent) => void,
): Promise<{ tokenIds: number[]; text: string }> {
  const tokenIds: number[] = [];
  let text = "";
  for await (const piece of run) {
    tokenIds.push(piece.tokenId);
    text += piece.text;
    if (piece.text) emit({ type: "piece", text: piece.text });
  }
  return { tokenIds, text };
}
