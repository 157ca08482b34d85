/** The plots of BENCHMARKS.md as Vega-Lite specifications, for a light and a dark page. */
import type { TopLevelSpec } from "vega-lite";
import type { BenchResult } from "../result-types.ts";
import { contenderOf, isRight, type Section } from "./documents.ts";
import { keysOf } from "./tables.ts";

/** What a plot is drawn for. */
export type Theme = "light" | "dark";

/** A plot: its file's name without theme and ending, what it shows in words, and its specification. */
export interface Plot {
  name: string;
  alt: string;
  spec(theme: Theme): TopLevelSpec;
}

/** One point of a line. */
interface Point {
  x: number;
  y: number;
  line: string;
  panel: string;
}

interface PlotText {
  title: string;
  xTitle: string;
  yTitle: string;
  alt: string;
}

const INK: Record<Theme, { text: string; middle: string; faint: string; background: string }> = {
  light: { text: "#1f2328", middle: "#8c959f", faint: "#d1d9e0", background: "#ffffff" },
  dark: { text: "#e6edf3", middle: "#7d8590", faint: "#3d444d", background: "#0d1117" },
};

/** Of Okabe and Ito's palette, which colour-blind people can tell apart; the yellow is too pale on white. */
const COLORS: Record<Theme, readonly string[]> = {
  light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f6000", "#4b0082"],
  dark: ["#56b4e9", "#ff8c42", "#2ec4a0", "#e6a0c4", "#f0e442", "#b197fc"],
};
const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];

const config = (theme: Theme) => {
  const { text, faint } = INK[theme];
  const label = { labelColor: text, titleColor: text, labelFontSize: 12, titleFontSize: 12 };
  return {
    font: "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif",
    view: { stroke: faint },
    axis: { ...label, gridColor: faint, domainColor: faint, tickColor: faint, titleFontWeight: "normal" as const },
    legend: { ...label, symbolSize: 90, symbolStrokeWidth: 2, labelLimit: 320, titleFontWeight: "normal" as const },
    header: { ...label, labelFontSize: 13 },
    title: { color: text, fontSize: 15, anchor: "start" as const, fontWeight: 600 as const, offset: 12 },
  };
};

/** Ticks of a logarithmic axis: powers of ten, between them 2 and 5 where there are few; the first and last enclose all. */
function logTicks(values: readonly number[]): number[] {
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.ceil(Math.log10(Math.max(...values)));
  const steps = high - low <= 2 ? [1, 2, 5] : [1];
  const ticks = Array.from({ length: high - low + 1 }, (_, index) => steps.map((step) => step * 10 ** (low + index)));
  const all = ticks.flat();
  const first = all.findLastIndex((tick) => tick <= Math.min(...values));
  const last = all.findIndex((tick) => tick >= Math.max(...values));
  return all.slice(Math.max(0, first), last + 1);
}

/** How a plot's vertical axis is drawn. */
interface PlotAxis {
  isLog: boolean;
  isPercent?: boolean;
  /** A broken line at an aim. */
  aim?: number;
}

/**
 * Lines over a logarithmic length, a panel for each of what must not be mixed (causal or not). `floor` is what nothing can
 * be below: a broken line behind the others.
 */
function linePlot(
  theme: Theme,
  points: readonly Point[],
  floor: readonly Point[],
  text: PlotText,
  axis: PlotAxis,
): TopLevelSpec {
  const lines = [...new Set(points.map(({ line }) => line))];
  const floors = [...new Set(floor.map(({ line }) => line))];
  const panels = [...new Set(points.map(({ panel }) => panel))];
  const lengths = [...new Set(points.map(({ x }) => x))].sort((a, b) => a - b);
  const { background, text: ink } = INK[theme];
  const colors = lines.map((_, index) => COLORS[theme][index % COLORS[theme].length]!);
  const values = [...points, ...floor].map(({ y }) => y);
  const ticks = logTicks(values);
  const most = 1.1 * Math.max(...values, axis.aim ?? 0);
  const x = {
    ...{ field: "x", type: "quantitative" as const, title: text.xTitle },
    scale: { type: "log" as const, base: 2, domain: [lengths[0]! / 1.15, lengths.at(-1)! * 1.15], nice: false },
    axis: { values: lengths, format: ",d", grid: false },
  };
  const y = {
    ...{ field: "y", type: "quantitative" as const, title: text.yTitle },
    ...(axis.isLog
      ? {
          scale: { type: "log" as const, domain: [ticks[0]!, ticks.at(-1)!], nice: false },
          axis: { values: ticks, format: ",~r" },
        }
      : { scale: { domain: [0, most], nice: false }, axis: { format: axis.isPercent ? ".0%" : ",~r", tickCount: 6 } }),
  };
  const color = {
    ...{ field: "line", type: "nominal" as const, title: null, sort: [...lines, ...floors] },
    scale: { domain: [...lines, ...floors], range: [...colors, ...floors.map(() => INK[theme].middle)] },
  };
  const shape = {
    ...{ field: "line", type: "nominal" as const, title: null, sort: [...lines, ...floors] },
    scale: {
      domain: [...lines, ...floors],
      range: [...lines.map((_, index) => SHAPES[index % SHAPES.length]!), ...floors.map(() => "stroke")],
    },
  };
  const isFloor = { field: "line", oneOf: floors };
  const layer = [
    ...(floor.length === 0
      ? []
      : [
          {
            transform: [{ filter: isFloor }],
            mark: { type: "line" as const, strokeDash: [5, 4], strokeWidth: 5 },
            encoding: { x, y, color },
          },
        ]),
    {
      transform: [{ filter: { not: isFloor } }],
      mark: { type: "line" as const, strokeWidth: 2, point: { filled: true, size: 60 } },
      encoding: { x, y, color, shape },
    },
    ...(axis.aim === undefined
      ? []
      : [
          {
            mark: { type: "rule" as const, strokeDash: [5, 4], color: ink },
            encoding: { y: { datum: axis.aim } },
          },
        ]),
  ];
  const shared = {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    ...{ background, padding: 12, title: text.title, config: config(theme) },
    data: { values: [...points, ...floor] },
  };
  const spec = { width: panels.length === 1 ? 520 : 320, height: 280, layer };
  if (panels.length === 1) return { ...shared, ...spec } as TopLevelSpec;
  return {
    ...shared,
    facet: { field: "panel", type: "nominal" as const, title: null, sort: panels },
    ...{ columns: 2, spec },
  } as TopLevelSpec;
}

/** What a row's line is called: whose it is, and its type or what ran where those of one contender differ in one case. */
function lineNames(rows: readonly BenchResult[]): (row: BenchResult) => string {
  const hasTypes = new Set(rows.map(({ dtype = "f32" }) => dtype)).size > 1;
  const keyOf = (row: BenchResult) => [contenderOf(row), row.case, row.dtype ?? "f32"].join("\n");
  const keys = rows.map(keyOf);
  const repeated = new Set(keys.filter((key, index) => keys.indexOf(key) !== index));
  const several = new Set(rows.filter((row) => repeated.has(keyOf(row))).map(contenderOf));
  return (row) => {
    const who = contenderOf(row) === "ringwise" ? "Ringwise" : contenderOf(row);
    const what = several.has(contenderOf(row)) ? `: ${row.implementation.replace(", subgroups hidden", "")}` : "";
    return `${who}${what}${hasTypes ? `, ${row.dtype ?? "f32"}` : ""}`;
  };
}

const isPrefill = ({ case: name }: BenchResult) => /^prefill-\d/.test(name);
const isDecode = ({ case: name }: BenchResult) => /^decode-\d/.test(name);
const panelOf = ({ isCausal }: BenchResult): string => (isCausal ? "causal" : "not causal");
/** Ours first, so that it has the same colour in every plot. */
const oursFirst = (a: BenchResult, b: BenchResult) =>
  Number(contenderOf(a) !== "ringwise") - Number(contenderOf(b) !== "ringwise");
const byPanel = (a: BenchResult, b: BenchResult) => Number(a.isCausal ?? false) - Number(b.isCausal ?? false);

/** The plots that a section has figures for. */
export function plotsOf(section: Section): Plot[] {
  const rows = section.against.some(isPrefill) ? section.against : section.own;
  // Right ones only: the time of zeros says nothing. Forced designs have rows of their own names.
  const right = rows.filter((row) => isRight(row)).sort((a, b) => byPanel(a, b) || oursFirst(a, b));
  const hasTypes = new Set(right.map(({ dtype = "f32" }) => dtype)).size > 1;
  const nameOf = lineNames(right);
  const on = section.title;
  const plot = (
    kind: string,
    points: readonly Point[],
    text: PlotText,
    axis: PlotAxis,
    floor: readonly Point[] = [],
  ): Plot[] =>
    new Set(points.map(({ x }) => x)).size < 2
      ? []
      : [
          {
            name: `${section.slug}-${kind}`,
            alt: text.alt,
            spec: (theme) => linePlot(theme, points, floor, text, axis),
          },
        ];
  const over = (
    chosen: readonly BenchResult[],
    y: (row: BenchResult) => number | undefined,
    x: (row: BenchResult) => number | undefined = ({ seqLen }) => seqLen,
    panel = panelOf,
  ): Point[] =>
    chosen.flatMap((row) => {
      const [at, value] = [x(row), y(row)];
      return at === undefined || value === undefined ? [] : [{ x: at, y: value, line: nameOf(row), panel: panel(row) }];
    });
  const prefill = right.filter(isPrefill);
  const ownPrefill = section.own.filter((row) => isPrefill(row) && isRight(row)).sort(byPanel);
  const tensors = prefill
    .filter((row) => contenderOf(row) === "ringwise" && row.tensorBytes)
    .map((row) => ({
      ...{ x: row.seqLen!, y: row.tensorBytes! / 2 ** 20, panel: panelOf(row) },
      line: hasTypes ? `query, key, value and output, ${row.dtype ?? "f32"}` : "query, key, value and output",
    }));
  return [
    ...plot(
      "time",
      over(prefill, ({ timeMs }) => timeMs?.median),
      {
        title: "Prefill: time against length (8 heads x 64)",
        xTitle: "tokens",
        yTitle: "median ms",
        alt: `Time of prefill against length, both axes logarithmic, on ${on}`,
      },
      { isLog: true },
    ),
    ...plot(
      "decode",
      over(
        right.filter(isDecode),
        ({ timeMs }) => timeMs?.median,
        ({ case: name }) => keysOf(name),
        () => "decode",
      ),
      {
        title: "Decode: time of one token against keys (8 heads x 64)",
        xTitle: "keys",
        yTitle: "median ms",
        alt: `Time of one decoded token against the number of keys, both axes logarithmic, on ${on}`,
      },
      { isLog: true },
    ),
    ...plot(
      "share",
      over(ownPrefill, ({ peakShare }) => peakShare),
      {
        title: "Prefill: share of the adapter's multiply-add peak",
        xTitle: "tokens",
        yTitle: "share of FMA peak",
        alt: `Share of the multiply-add peak that Ringwise's prefill reaches against length, on ${on}; the aim as a broken line`,
      },
      { isLog: false, isPercent: true, aim: section.isCpu ? 0.55 : 0.4 },
    ),
    ...plot(
      "memory",
      over(prefill, ({ peakBytes }) => (peakBytes === undefined ? undefined : peakBytes / 2 ** 20)),
      {
        title: "Prefill: peak GPU memory against length",
        xTitle: "tokens",
        yTitle: "peak MiB",
        alt: `Peak GPU memory of prefill against length, both axes logarithmic, on ${on}`,
      },
      { isLog: true },
      tensors,
    ),
  ];
}
