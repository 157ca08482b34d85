/**
 * Driving the page from outside (the command line without a display, tests, a console).
 *
 * Every control is a URL parameter by its name, and `autorun=1` starts the run:
 *
 *     index.html?autorun=1&worldSize=4&layout=zigzag&blockMemory=gpu&attention=ring&length=4096&depth=50&maxNewTokens=64
 *     index.html?autorun=1&modelId=HuggingFaceTB/SmolLM2-135M-Instruct&text=own&question=...   (or model=default|hub|folder)
 *     index.html?autorun=needle&needleLength=4096&needleDepths=5
 *
 * Then, in the page: `await ringwiseDemo.result` is the outcome of the run under way or, before one, of the first one to
 * come. It never rejects: a failed run has state "failed" and `error` in plain sentences. While it runs,
 * `ringwiseDemo.state` (also `<html data-state>`), `.answer`, `.progress` and the callback `.onPiece` tell how far it is.
 */
import type { GenerateStatistics } from "../src/index.ts";
import type { Explanation } from "./explain-error.ts";
import type { EngineError, NeedleCell, PrefillFacts } from "./protocol.ts";

/** What the page is doing. "needle" while the needle test runs. */
export type DemoState = "idle" | "loading" | "prefill" | "answering" | "needle" | "done" | "stopped" | "failed";

/** How a run ended. */
export interface DemoResult {
  state: "done" | "stopped" | "failed";
  answer: string;
  /** The needle, where the generated text has been asked for it, and whether the answer has it. */
  expected?: string;
  found?: boolean;
  statistics?: GenerateStatistics;
  /** Of a needle test. */
  cells?: NeedleCell[];
  error?: Explanation & EngineError;
  modelName?: string;
  adapterName?: string;
}

/** `window.ringwiseDemo` */
export interface DemoHook {
  state: DemoState;
  answer: string;
  progress: PrefillFacts | undefined;
  /** Set it to hear the answer as it streams. */
  onPiece: ((text: string) => void) | undefined;
  result: Promise<DemoResult>;
}

declare global {
  interface Window {
    ringwiseDemo: DemoHook;
  }
}

/** Keeps `window.ringwiseDemo` true. */
export class Automation {
  private readonly hook: DemoHook;
  private settle: (result: DemoResult) => void = () => {};
  private isSettled = false;

  constructor() {
    const result = this.newPromise();
    this.hook = { state: "idle", answer: "", progress: undefined, onPiece: undefined, result };
    window.ringwiseDemo = this.hook;
  }

  setState(state: DemoState): void {
    this.hook.state = state;
    document.documentElement.dataset.state = state;
  }

  /** A run begins: `result` is now about this one. */
  begin(): void {
    // A promise that nothing has settled is kept: whoever waits on it since before the run must hear of it.
    if (this.isSettled) this.hook.result = this.newPromise();
    this.hook.answer = "";
    this.hook.progress = undefined;
  }

  piece(text: string): void {
    this.hook.answer += text;
    this.hook.onPiece?.(text);
  }

  progress(progress: PrefillFacts): void {
    this.hook.progress = progress;
  }

  /** The run has ended. */
  end(result: DemoResult): void {
    this.isSettled = true;
    this.setState(result.state);
    this.settle(result);
  }

  private newPromise(): Promise<DemoResult> {
    this.isSettled = false;
    return new Promise((resolve) => (this.settle = resolve));
  }
}
