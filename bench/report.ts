/** The report page of a bench run: one HTML file that stands alone, with uPlot's own code inside. */

import uPlotCode from "uplot/dist/uPlot.iife.min.js?raw";
import uPlotCss from "uplot/dist/uPlot.min.css?raw";
import type { BenchDocument, BenchResult } from "./result-types.ts";

/** A plot: x values, and one line per series (null: no point there). */
interface Plot {
  title: string;
  xLabel: string;
  yLabel: string;
  isLog: boolean;
  x: number[];
  series: { name: string; y: (number | null)[] }[];
}

const escapeHtml = (text: string) => text.replace(/[&<>"']/g, (character) => `&#${character.codePointAt(0)};`);

/** Text for a `<script>`: a `</script>` or `<!--` inside would end or change it. */
const scriptJson = (value: unknown) => JSON.stringify(value).replace(/</g, "\\u003c");

/** One line per implementation (and masking) over the sequence length. */
function plotOver(
  results: readonly BenchResult[],
  title: string,
  yLabel: string,
  isLog: boolean,
  measureOf: (result: BenchResult) => number | undefined,
): Plot | undefined {
  const isPoint = (result: BenchResult) => result.seqLen !== undefined && measureOf(result) !== undefined;
  const points = results.filter((result) => (result.status ?? "ok") === "ok" && isPoint(result));
  if (points.length === 0) return undefined;
  const x = [...new Set(points.map((result) => result.seqLen!))].sort((a, b) => a - b);
  const nameOf = ({ contender, implementation, dtype = "f32", isCausal }: BenchResult) =>
    [contender, implementation, ...(dtype === "f32" ? [] : [dtype]), ...(isCausal ? ["causal"] : [])]
      .filter(Boolean)
      .join(", ");
  const series = [...new Set(points.map(nameOf))].map((name) => ({
    name,
    y: x.map((seqLen) => {
      const found = points.find((result) => nameOf(result) === name && result.seqLen === seqLen);
      return found ? measureOf(found)! : null;
    }),
  }));
  return { title, xLabel: "tokens", yLabel, isLog, x, series };
}

function plotsOf(document: BenchDocument): Plot[] {
  // One family of shapes that differ in length alone, where it was measured; the table has the others.
  const all = document.results.filter((result) => result.group === "attention");
  const family = all.filter((result) => result.case.startsWith("prefill-"));
  const attention = family.length > 0 ? family : all;
  const memory = document.results.filter((result) => result.group === "memory");
  return [
    plotOver(attention, "Time against length", "milliseconds", true, (result) => result.timeMs?.median),
    plotOver(attention, "Share of the FMA peak", "percent", false, (result) =>
      result.peakShare === undefined ? undefined : 100 * result.peakShare,
    ),
    plotOver(memory, "Peak extra bytes against length", "MiB", false, (result) =>
      result.extraBytes === undefined ? undefined : result.extraBytes / 2 ** 20,
    ),
  ].filter((plot) => plot !== undefined);
}

const format = (value: number | undefined, digits = 2) => (value === undefined ? "" : value.toFixed(digits));

function tableOf(document: BenchDocument): string {
  const rows = document.results.map((result) => [
    `${result.case}${result.dtype === "f16" ? ", f16" : ""}`,
    [result.contender, result.implementation].filter(Boolean).join(": "),
    format(result.timeMs?.median),
    format(result.timeMs?.min),
    result.timeMs ? `${format(100 * result.timeMs.spread, 1)}%` : "",
    format(result.gflops),
    result.peakShare === undefined ? "" : `${format(100 * result.peakShare, 1)}%`,
    result.extraShare === undefined ? "" : `${format(100 * result.extraShare, 1)}%`,
    result.maxError?.toExponential(1) ?? "",
    result.status ?? "ok",
    result.reason ??
      Object.entries(result.figures ?? {})
        .map(([name, value]) => `${name} ${Number(value.toPrecision(4))}`)
        .join(", "),
  ]);
  const header = ["case", "implementation", "median ms", "min ms", "spread", "GFLOP/s", "of FMA peak"];
  const cells = (row: string[], tag: string) => row.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join("");
  return `<table><thead><tr>${cells([...header, "extra memory", "max error", "status", "further"], "th")}</tr></thead><tbody>${rows
    .map((row) => `<tr>${cells(row, "td")}</tr>`)
    .join("")}</tbody></table>`;
}

const STYLE = `
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 0.85rem; display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #8884; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2), th:last-child, td:last-child { text-align: left; }
.plot { background: #fff; color: #000; padding: 0.5rem; margin: 1rem 0; overflow-x: auto; }
`;

/** Runs in the page: draws every plot that the document brought. */
const SCRIPT = `
const colors = ["#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce", "#b91c1c", "#0f766e", "#a16207", "#1d4ed8"];
for (const plot of plots) {
  const holder = document.createElement("div");
  holder.className = "plot";
  document.getElementById("plots").append(holder);
  new uPlot({
    title: plot.title,
    width: Math.min(1100, document.body.clientWidth - 20),
    height: 340,
    padding: [8, 28, 0, 0],
    scales: { x: { time: false, distr: 3, log: 2 }, y: { distr: plot.isLog ? 3 : 1, range: plot.isLog ? undefined : (u, min, max) => [0, max * 1.1] } },
    axes: [{ label: plot.xLabel, values: (u, ticks) => ticks.map(String) }, { label: plot.yLabel, size: 70 }],
    series: [{ label: plot.xLabel }, ...plot.series.map((line, index) => ({
      label: line.name, stroke: colors[index % colors.length], width: 2, points: { show: true, size: 7 }, spanGaps: true,
    }))],
  }, [plot.x, ...plot.series.map((line) => line.y)], holder);
}
`;

/** The report as HTML. */
export function reportHtml(document: BenchDocument): string {
  const title = `Ringwise ${document.ringwise}: bench on ${document.adapter}`;
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escapeHtml(title)}</title>
<style>${uPlotCss}${STYLE}</style></head>
<body><h1>${escapeHtml(title)}</h1>
<p>${escapeHtml(`${document.date}, ${document.host}, ${document.machine}`)}</p>
<div id="plots"></div>
${tableOf(document)}
<script>${uPlotCode}</script>
<script>const plots = ${scriptJson(plotsOf(document))};${SCRIPT}</script>
</body></html>
`;
}
