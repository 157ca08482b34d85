/** Numbers as people read them, in the page's language (English, whatever the browser's). */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 4096 -> "4,096". */
export const formatCount = (count: number): string => whole.format(count);

/** 1,230, 123, 12.3, 1.23; below 1 three digits that count: 0.0123. */
export function formatFigure(value: number): string {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size < 1) return value.toLocaleString("en", { maximumSignificantDigits: 3 });
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** 1536 -> "1.5 KiB". */
export function formatBytes(byteLength: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = byteLength;
  // What would be rounded to "1,024 KiB" is a MiB.
  while (Math.round(value) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? whole.format(value) : formatFigure(value)}\u00a0${units[unit]}`;
}

/** 3.456 -> "3.46 ms", 340 -> "340 ms", 12400 -> "12 s", 754000 -> "12 min 34 s". */
export function formatMs(timeMs: number): string {
  if (!Number.isFinite(timeMs)) return "–";
  if (Math.round(timeMs) >= 1000) return formatSeconds(timeMs / 1000);
  return `${timeMs < 10 ? formatFigure(timeMs) : whole.format(timeMs)}\u00a0ms`;
}

/** 1.24 -> "1.2 s", 12.4 -> "12 s", 754 -> "12 min 34 s", 7500 -> "2 h 5 min". */
export function formatSeconds(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 9.95) return `${seconds.toFixed(1)}\u00a0s`;
  // Rounded before it is split, so that no part can become 60.
  const rounded = Math.round(seconds);
  if (rounded < 60) return `${rounded}\u00a0s`;
  if (rounded < 3600) return `${Math.floor(rounded / 60)}\u00a0min ${rounded % 60}\u00a0s`;
  const minutes = Math.round(seconds / 60);
  return `${whole.format(Math.floor(minutes / 60))}\u00a0h ${minutes % 60}\u00a0min`;
}

/** 0.0312 -> "3.12%". */
export const formatShare = (share: number): string => `${formatFigure(share * 100)}%`;

/** 4096 -> "4K", 1500 -> "1,500". */
export const formatLength = (tokens: number): string =>
  tokens % 1024 === 0 && tokens > 0 ? `${whole.format(tokens / 1024)}K` : whole.format(tokens);

/** Multiply-adds per second as graphics cards are sold, two operations each: 1.2e9 -> "2.4 GFLOP/s". */
export function formatRate(multiplyAddsPerSecond: number): string {
  const gigaflops = (multiplyAddsPerSecond * 2) / 1e9;
  return gigaflops >= 1000
    ? `${formatFigure(gigaflops / 1000)}\u00a0TFLOP/s`
    : `${formatFigure(gigaflops)}\u00a0GFLOP/s`;
}
