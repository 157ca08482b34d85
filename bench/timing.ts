/** Timing GPU work from the host's clock: whole submissions, warm, repeated in turn so that drift meets all alike. */
import { type Summary, summarize } from "./statistics.ts";

/** Something to time: encodes its work once (or awaits what it submits itself). */
export interface Contender {
  name: string;
  /** Encodes one run into the encoder, which is then submitted. */
  encode?: (encoder: GPUCommandEncoder) => void;
  /** Runs once and resolves when done, for what submits on its own. */
  run?: () => Promise<void>;
}

/** How often things are run. */
export interface TimingOptions {
  /** Runs before the first that counts. */
  warmups: number;
  repeats: number;
  /** Runs too short for the clock are made several times per submission, up to this long. */
  minSampleMs: number;
  signal?: AbortSignal;
}

/** One sample: `count` runs in one submission; milliseconds for one of them. */
async function sample(device: GPUDevice, contender: Contender, count: number): Promise<number> {
  const startMs = performance.now();
  if (contender.run) for (let index = 0; index < count; index++) await contender.run();
  if (contender.encode) {
    const encoder = device.createCommandEncoder({ label: `bench ${contender.name}` });
    for (let index = 0; index < count; index++) contender.encode(encoder);
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
  }
  return (performance.now() - startMs) / count;
}

/**
 * Times contenders in turn: one sample of each, then again. The order is turned round every other time, so that no
 * contender always follows the same one.
 * @throws signal.reason when aborted
 */
export async function timeInTurn(
  device: GPUDevice,
  contenders: readonly Contender[],
  options: TimingOptions,
): Promise<Map<string, Summary>> {
  const counts = new Map<string, number>();
  for (const contender of contenders) {
    let onceMs = 0;
    for (let index = 0; index < Math.max(1, options.warmups); index++) {
      options.signal?.throwIfAborted();
      onceMs = await sample(device, contender, 1);
    }
    counts.set(contender.name, Math.max(1, Math.min(1000, Math.ceil(options.minSampleMs / Math.max(onceMs, 0.01)))));
  }
  const samples = new Map<string, number[]>(contenders.map(({ name }) => [name, []]));
  for (let repeat = 0; repeat < options.repeats; repeat++) {
    const order = repeat % 2 === 0 ? contenders : [...contenders].reverse();
    for (const contender of order) {
      options.signal?.throwIfAborted();
      samples.get(contender.name)!.push(await sample(device, contender, counts.get(contender.name)!));
    }
  }
  return new Map([...samples].map(([name, list]) => [name, summarize(list)]));
}
