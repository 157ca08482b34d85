/** `ringwise bench --ring`: what a ring over links shows of its transfers, and how it scales, as rows and as a table. */
import type { RingLayout } from "../../src/index.ts";
import { measureRealOverlap } from "./real-kernels.ts";
import { measureOverlap, measureScaling, type OverlapRow, type ScalingRow } from "./simulate.ts";

const LAYOUTS: readonly RingLayout[] = ["contiguous", "zigzag", "striped"];
/** Transfer of a block to compute of a step: hidden, and twice too slow to be. */
const RATIOS = [0.8, 2];

/** What is measured. */
export interface RingBenchJob {
  worldSizes: readonly number[];
  /** Default: both. */
  clocks?: readonly OverlapRow["clock"][];
  /** Passes of each case in real time, of which the fastest counts. */
  repeats: number;
  /** For the rows with real kernels; left out where there is none. */
  device?: GPUDevice;
}

/** The document that is written. */
export interface RingBenchResult {
  overlap: OverlapRow[];
  scaling: ScalingRow[];
}

const ones = (count: number) => Array.from({ length: count }, () => 1);

/** Rings of equal ranks, and rings with slow ones: with equal shards, and with shards by speed. */
const SCALING: readonly (readonly number[])[] = [
  ...[1, 2, 3, 4, 5, 6, 7, 8].map(ones),
  [1, 1, 1, 0.05],
  [1, 0.5, 0.25, 1],
  [...ones(7), 0.05],
];

/** Runs everything. @param log One line for each case, before it. */
export async function runRingBench(job: RingBenchJob, log: (line: string) => void): Promise<RingBenchResult> {
  const overlap: OverlapRow[] = [];
  const scaling: ScalingRow[] = [];
  for (const clock of job.clocks ?? (["virtual", "real"] as const))
    for (const worldSize of job.worldSizes)
      for (const layout of LAYOUTS)
        for (const isCausal of [false, true])
          for (const ratio of RATIOS) {
            log(
              `simulated compute, ${clock} clock: ${worldSize} ranks, ${layout}${isCausal ? ", causal" : ""}, x${ratio}`,
            );
            const repeats = clock === "real" ? job.repeats : 1;
            overlap.push(await measureOverlap({ worldSize, layout, isCausal, ratio, repeats, clock }));
          }
  if (job.device)
    for (const layout of LAYOUTS)
      for (const isCausal of [false, true]) {
        log(`real kernels: 2 ranks, ${layout}${isCausal ? ", causal" : ""}`);
        const { device, repeats } = job;
        const options = { layout, isCausal, ratios: RATIOS, tokensPerRank: 512, repeats };
        overlap.push(...(await measureRealOverlap(device, options)));
      }
  for (const speeds of SCALING)
    for (const shards of ["equal", "by speed"] as const) {
      if (shards === "by speed" && speeds.every((speed) => speed === 1)) continue;
      log(`simulated prefill: ${speeds.length} ranks, ${shards} shards`);
      scaling.push(await measureScaling({ speeds, shards, tokens: 2048, aloneMs: 6400 }));
    }
  return { overlap, scaling };
}

const ms = (value: number) => value.toFixed(value < 10 ? 1 : 0);
const percent = (value: number) => `${(100 * value).toFixed(1)}%`;

/** The table of overlap, header first. */
export function overlapTable(rows: readonly OverlapRow[]): string[][] {
  return [
    [
      "compute",
      "clock",
      "ranks",
      "layout",
      "causal",
      "transfer",
      "pass ms",
      "compute ms",
      "exposed ms",
      "exposed",
      "unavoidable ms",
    ],
    ...rows.map((row) => [
      row.compute,
      row.clock,
      String(row.worldSize),
      row.layout,
      row.isCausal ? "yes" : "no",
      `x${row.ratio}`,
      ms(row.wallMs),
      ms(row.computeMs),
      ms(row.exposedMs),
      percent(row.exposedShare),
      ms(row.unavoidableMs),
    ]),
  ];
}

/** The table of scaling, header first. */
export function scalingTable(rows: readonly ScalingRow[]): string[][] {
  return [
    ["ranks", "speeds", "shards", "tokens", "prefill ms", "ideal ms", "of ideal"],
    ...rows.map((row) => [
      String(row.worldSize),
      row.speeds.every((speed) => speed === 1) ? "alike" : row.speeds.join(" "),
      row.shards,
      row.tokens.join(" "),
      ms(row.wallMs),
      ms(row.idealMs),
      percent(row.efficiency),
    ]),
  ];
}

/** What the rows are, in plain words: goes above every table that is shown. */
export const RING_BENCH_NOTES = [
  'The ring\'s loop, page streaming, readback, credits and links are the library\'s own in every row. "simulated": compute is a queue that only takes time, so nothing is said of any GPU\'s speed. Clock "virtual": the processor\'s part (encoding, copying, hashing) counts as no time, which shows the schedule; "real": it counts, and all ranks share this machine\'s cores.',
  '"transfer": time of one block on its link / compute of one step, on average, of the rank with most work. "exposed": time of the pass in which that rank does not compute. "unavoidable": what is left of that in the best schedule there can be, links busy from the first moment (under a contiguous causal layout the first step is half a step, and cannot hide a whole transfer).',
  '"real kernels": two ranks on one device, which they share, so that compute is what a pass over unthrottled links takes. No figure here is a speed-up of this machine.',
];

/** Both tables as Markdown. */
export function ringBenchMarkdown(title: string, { overlap, scaling }: RingBenchResult): string {
  const table = ([header, ...rows]: string[][]) =>
    [header!, header!.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
  const notes = RING_BENCH_NOTES.join("\n\n");
  return `# ${title}\n\n${notes}\n\n## Exposed communication\n\n${table(overlapTable(overlap))}\n\n## Prefill of one layer, causal, zigzag (simulated compute, virtual clock)\n\n${table(scalingTable(scaling))}\n`;
}
