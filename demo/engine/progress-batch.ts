/** Gathers what a run reports, thousands of ring steps a second on a fast GPU, into a few messages the page can draw. */
import { type GenerateProgress, ledgerOf } from "../../src/index.ts";
import type { EngineEvent, MemoryFacts, PrefillFacts, RingTurn } from "../protocol.ts";

/** Milliseconds between two messages. */
const PERIOD_MS = 90;
/** Ring steps in one message at most; the oldest turns are left out first. */
const MAX_STEPS = 6000;

/** Bytes on the GPU now and at most so far, from the device's ledger. */
function readMemory(device: GPUDevice, worldSize: number): MemoryFacts {
  const ledger = ledgerOf(device);
  return {
    ...ledger.total,
    ranks: Array.from({ length: worldSize }, (_, rank) => ({ ...ledger.of(rank) })),
  };
}

/** Collects `GenerateProgress` and posts at most one "progress" event per period. */
export class ProgressBatch {
  private prefill: PrefillFacts | undefined;
  private turns: RingTurn[] = [];
  private stepCount = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly id: number,
    private readonly device: GPUDevice,
    private readonly worldSize: number,
    private readonly post: (event: EngineEvent) => void,
  ) {}

  /** For `GenerateOptions.onProgress`. */
  readonly add = (progress: GenerateProgress): void => {
    if (progress.type === "prefill") {
      const { type: _, ...prefill } = progress;
      this.prefill = prefill;
    } else {
      this.turns.push({ layer: progress.layer, layerCount: progress.layerCount, steps: [...progress.steps] });
      this.stepCount += progress.steps.length;
      while (this.stepCount > MAX_STEPS && this.turns.length > 1) this.stepCount -= this.turns.shift()!.steps.length;
    }
    this.timer ??= setTimeout(() => this.flush(), PERIOD_MS);
  };

  /** Posts what is gathered, now. */
  flush(): void {
    this.cancel();
    const { id, prefill, turns } = this;
    this.post({ type: "progress", id, prefill, turns, memory: readMemory(this.device, this.worldSize) });
    this.prefill = undefined;
    this.turns = [];
    this.stepCount = 0;
  }

  /** Forgets what is gathered: nothing is posted for a job that has ended. */
  cancel(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
  }
}
