/** Numbers as people read them, in the page's language (English, whatever the browser's). */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 4096 -> "4,096". */
export const formatCount = (count: number): string => whole.format(count);

/** Three significant digits: 0.0123, 1.23, 12.3, 1,230. */
export function formatFigure(value: number): string {
  if (!Number.isFinite(value)) return "–";
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** 1536 -> "1.5 KiB". */
export function formatBytes(byteLength: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = byteLength;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? whole.format(value) : formatFigure(value)}\u00a0${units[unit]}`;
}

/** 340 -> "340 ms", 12400 -> "12.4 s", 754000 -> "12 min 34 s". */
export function formatMs(timeMs: number): string {
  if (!Number.isFinite(timeMs)) return "–";
  if (timeMs < 1000) return `${timeMs < 10 ? formatFigure(timeMs) : whole.format(timeMs)}\u00a0ms`;
  return formatSeconds(timeMs / 1000);
}

/** 12.4 -> "12.4 s", 754 -> "12 min 34 s", 7500 -> "2 h 5 min". */
export function formatSeconds(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : whole.format(seconds)}\u00a0s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}\u00a0min ${Math.round(seconds % 60)}\u00a0s`;
  return `${Math.floor(minutes / 60)}\u00a0h ${minutes % 60}\u00a0min`;
}

/** 0.0312 -> "3.1%". */
export const formatShare = (share: number): string => `${formatFigure(share * 100)}%`;

/** 4096 -> "4K", 1500 -> "1,500". */
export const formatLength = (tokens: number): string =>
  tokens % 1024 === 0 && tokens > 0 ? `${whole.format(tokens / 1024)}K` : whole.format(tokens);
