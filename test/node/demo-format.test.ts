/** Numbers on the demo page: at every border between two units, nothing is rounded to 60 s or 1,024 KiB. */
import { expect, it } from "vitest";
import {
  formatBytes,
  formatCount,
  formatFigure,
  formatLength,
  formatMs,
  formatSeconds,
  formatShare,
} from "../../demo/format.ts";

it.each([
  [0, "0.0 s"],
  [1.24, "1.2 s"],
  [9.949, "9.9 s"],
  [9.96, "10 s"],
  [12.4, "12 s"],
  [59.4, "59 s"],
  [59.7, "1 min 0 s"],
  [179.6, "3 min 0 s"],
  [754, "12 min 34 s"],
  [3599.4, "59 min 59 s"],
  [3599.7, "1 h 0 min"],
  [7199, "2 h 0 min"],
  [7500, "2 h 5 min"],
  [Number.NaN, "–"],
])("%s seconds are %s", (seconds, text) => {
  expect(formatSeconds(seconds).replaceAll("\u00a0", " ")).toBe(text);
});

it("seconds of any length never show 60 of anything", () => {
  const wrong: string[] = [];
  for (let seconds = 0; seconds < 10_000; seconds += 0.37)
    if (/\b60\b/.test(formatSeconds(seconds))) wrong.push(`${seconds}: ${formatSeconds(seconds)}`);
  expect(wrong).toEqual([]);
});

it.each([
  [3.456, "3.46 ms"],
  [340.2, "340 ms"],
  [999.4, "999 ms"],
  [999.6, "1.0 s"],
  [12_400, "12 s"],
])("%s milliseconds are %s", (timeMs, text) => {
  expect(formatMs(timeMs).replaceAll("\u00a0", " ")).toBe(text);
});

it.each([
  [512, "512 B"],
  [1536, "1.5 KiB"],
  [1024 * 1024 - 1, "1 MiB"],
  [12.34 * 1024 ** 3, "12.3 GiB"],
])("%s bytes are %s", (byteLength, text) => {
  expect(formatBytes(byteLength).replaceAll("\u00a0", " ")).toBe(text);
});

it.each([
  [0, "0"],
  [0.01234, "0.0123"],
  [1.234, "1.23"],
  [12.34, "12.3"],
  [1234.5, "1,235"],
  [Number.POSITIVE_INFINITY, "–"],
])("the figure %s is %s", (value, text) => {
  expect(formatFigure(value)).toBe(text);
});

it("shares, counts and lengths", () => {
  expect(formatShare(0.0312)).toBe("3.12%");
  expect(formatCount(4096)).toBe("4,096");
  expect([4096, 1500, 0].map(formatLength)).toEqual(["4K", "1,500", "0"]);
});
