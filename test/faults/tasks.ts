/** What rings are asked while faults happen to them. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Fault } from "./plan.ts";
import type { FaultTask } from "./run-fault.ts";

/** The trained model with its published answer. */
export const storiesFolder: string = fileURLToPath(new URL("../../../shared/models/stories260K", import.meta.url));

/** BOS and the 200 published ids. */
export const goldenIds = (): number[] =>
  (JSON.parse(readFileSync(`${storiesFolder}/golden.json`, "utf8")) as { token_ids: number[] }).token_ids;

/**
 * The golden's beginning is the prompt, and what follows must come out. For a fault in prefill a long prompt in small chunks,
 * so that there are many moments; for one in decode a short prompt and a longer answer.
 */
export function goldenTask(phase: Fault["phase"]): FaultTask {
  const ids = goldenIds();
  return phase === "prefill"
    ? { prompt: ids.slice(0, 170), expected: ids.slice(170, 186), prefillChunkSize: 12 }
    : { prompt: ids.slice(0, 24), expected: ids.slice(24, 84) };
}
