/** Numbers, tables and names as BENCHMARKS.md shows them. */

/** Three digits that count, without an exponent where it can be helped: 0.0123, 1.23, 123, 12,300. */
export function figure(value: number | undefined, digits = 3): string {
  if (value === undefined) return "";
  if (!Number.isFinite(value)) return String(value);
  if (Math.abs(value) >= 10 ** digits) return Math.round(value).toLocaleString("en-US");
  const text = value.toPrecision(digits);
  return /e/.test(text) ? text : text.replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

/** A share as "56%"; below 10% with one more digit. */
export const percent = (share: number | undefined): string =>
  share === undefined ? "" : `${(100 * share).toFixed(Math.abs(share) < 0.0995 ? 1 : 0)}%`;

/** Bytes as MiB. */
export const mebibytes = (bytes: number | undefined): string =>
  bytes === undefined ? "" : `${figure(bytes / 2 ** 20)}`;

/** A ratio as "3.4x". */
export const times = (ratio: number | undefined): string => (ratio === undefined ? "" : `${figure(ratio)}x`);

const cell = (text: string) => text.replace(/\|/g, "\\|").replace(/\s*\n\s*/g, " ");

/** A Markdown table; columns that hold nothing at all are left out. The first `left` columns are set left, others right. */
export function markdownTable(header: readonly string[], rows: readonly (readonly string[])[], left = 1): string {
  const kept = header.map((_, column) => column).filter((column) => rows.some((row) => row[column]));
  const line = (cells: readonly string[]) => `| ${kept.map((column) => cell(cells[column] ?? "")).join(" | ")} |`;
  const rule = `| ${kept.map((column) => (column < left ? "---" : "---:")).join(" | ")} |`;
  return [line(header), rule, ...rows.map(line)].join("\n");
}
