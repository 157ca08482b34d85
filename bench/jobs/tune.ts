/** `ringwise tune`: every candidate on every class of shapes of this adapter, in Chrome's page or in Node. */
import {
  type AttentionOptions,
  type AttentionWork,
  describeAdapter,
  type ShippedAdapter,
  type TunedRecord,
  tuneAttention,
} from "../../src/index.ts";

/** One class of shapes to tune, by the options that stand for it. */
interface TuneShape {
  name: string;
  options: AttentionOptions;
  works: AttentionWork[];
}

/** What the page and Node are asked to tune. */
export interface TuneJob {
  /** Parts of names; a shape whose name has one of them is tuned. Absent: all. */
  shapes?: string[];
  /** Ids of the candidates to try. Absent: all. */
  candidates?: string[];
  /** Milliseconds per shape. Absent: as long as it takes. */
  budgetMs?: number;
  /** No shape is begun after so many milliseconds: compiling cannot be called off, so budgets alone bound nothing. */
  totalMs?: number;
}

/** What a run tells while it goes. */
export type TuneEvent = { type: "progress"; message: string };

/** What the device side answers. */
export interface TuneAnswer {
  /** For people. */
  adapter: string;
  records: TunedRecord[];
  /** The data that the library would ship; undefined where vendor and architecture are not told, or nothing was found. */
  data?: ShippedAdapter;
}

const HEADS = 8;

function shapesOf(dtype: "f32" | "f16"): TuneShape[] {
  const many = (name: string, headDim: number, rest: Partial<AttentionOptions> = {}): TuneShape => ({
    ...{ name: `${dtype} d${headDim} ${name}`, options: { heads: HEADS, headDim, dtype, ...rest } },
    works: ["many-rows"],
  });
  const few = (headDim: number, group: number): TuneShape => ({
    ...{ name: `${dtype} d${headDim} decode g${group}`, works: ["few-rows"] },
    options: { heads: HEADS, kvHeads: HEADS / group, headDim, dtype, isCausal: true },
  });
  const causal = { isCausal: true };
  return [
    ...[64, 128, 96, 256, 32, 16].flatMap((dim) => [many("full", dim), many("causal", dim, causal)]),
    ...[64, 128].map((dim) => many("window", dim, { isCausal: true, window: 256 })),
    ...[64, 128].flatMap((dim) => [
      many("full short", dim, { expectedSeqLen: 512 }),
      many("causal short", dim, { ...causal, expectedSeqLen: 512 }),
    ]),
    ...[64, 128].flatMap((dim) => [few(dim, 1), few(dim, 4), few(dim, 2), few(dim, 8)]),
  ];
}

/** Names of the shapes that are tuned on a device with these features. */
export const tuneShapeNames = (hasF16: boolean): string[] =>
  [...shapesOf("f32"), ...(hasF16 ? shapesOf("f16") : [])].map(({ name }) => name);

/** Tunes one shape after the other; nothing is taken from a store, or kept in one. */
export async function runTune(
  device: GPUDevice,
  job: TuneJob,
  onEvent: (event: TuneEvent) => void = () => {},
): Promise<TuneAnswer> {
  const { name: adapter, hasF16, isCpu } = describeAdapter(device);
  // Short calls fill a processor as well as long ones: their ranking is the same there, and stands for both.
  const parts = job.shapes ?? [""];
  const isAsked = (name: string) =>
    parts.some((part) => name.includes(part) && !(isCpu && name.endsWith("short") && !part.includes("short")));
  const shapes = [...shapesOf("f32"), ...(hasF16 ? shapesOf("f16") : [])].filter(({ name }) => isAsked(name));
  const records: TunedRecord[] = [];
  const startMs = performance.now();
  for (const [index, { name, options, works }] of shapes.entries()) {
    if (performance.now() - startMs > (job.totalMs ?? Number.POSITIVE_INFINITY)) break;
    const tell = (message: string) =>
      onEvent({ type: "progress", message: `${index + 1} of ${shapes.length}: ${name}: ${message}` });
    tell("begins");
    const tuned = await tuneAttention(device, options, {
      ...{ works, candidates: job.candidates, store: null, isAnew: true, maxCandidates: Number.POSITIVE_INFINITY },
      budgetMs: job.budgetMs ?? Number.POSITIVE_INFINITY,
      onProgress: ({ done, total, message }) => tell(`${done} of ${total} candidates, ${message}`),
    });
    for (const { record } of tuned) if (record) records.push(record);
    // What the budget left behind must not be in the next shape's way.
    await device.queue.onSubmittedWorkDone();
  }
  const [first] = records;
  const isKnown = first && !first.adapter.startsWith("unknown");
  return {
    adapter,
    records,
    data: isKnown
      ? {
          ...{ adapter: first.adapter, driver: first.driver, library: first.library, date: first.date.slice(0, 10) },
          choices: Object.fromEntries(records.map(({ shape, id }) => [shape, id])),
        }
      : undefined,
  };
}
