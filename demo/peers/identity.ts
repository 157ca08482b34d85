/** This machine as others see it: a name and the GPU memory it offers. Both are remembered in this browser. */

const NAME_KEY = "ringwise.name";
const MEMORY_KEY = "ringwise.memoryMiB";
/** Longest name that is sent, in characters: what fits a row. */
export const MAX_NAME_LENGTH = 40;

/** Not in TypeScript's DOM library yet. */
interface PlatformNavigator {
  userAgent: string;
  userAgentData?: { platform?: string; mobile?: boolean; brands?: { brand: string }[] };
  /** RAM in GiB, rounded, at most 8 (or 32). */
  deviceMemory?: number;
}

const PLATFORMS: readonly (readonly [pattern: RegExp, name: string])[] = [
  [/iPhone/, "iPhone"],
  [/iPad/, "iPad"],
  [/Android/i, "Android phone"],
  [/CrOS|Chrome ?OS/i, "Chromebook"],
  [/Mac/i, "Mac"],
  [/Win/i, "Windows PC"],
  [/Linux|X11/i, "Linux PC"],
];

/** "Chrome on a Linux PC": what a machine is called that nobody has named. */
export function defaultName(from: PlatformNavigator = navigator as PlatformNavigator): string {
  const { userAgent, userAgentData } = from;
  const text = `${userAgentData?.platform ?? ""} ${userAgent}`;
  const platform = PLATFORMS.find(([pattern]) => pattern.test(text))?.[1] ?? "Computer";
  const browser = /Edg\//.test(userAgent)
    ? "Edge"
    : /Firefox\//.test(userAgent)
      ? "Firefox"
      : /Chrom(e|ium)\//.test(userAgent)
        ? "Chrome"
        : /Safari\//.test(userAgent)
          ? "Safari"
          : "";
  return browser ? `${platform}, ${browser}` : platform;
}

/** MiB offered where the person has not said: a quarter of the RAM that the browser tells of, from 256 MiB to 2 GiB. */
export function defaultMemoryMiB(from: PlatformNavigator = navigator as PlatformNavigator): number {
  const gibibytes = from.deviceMemory ?? 4;
  return Math.min(2048, Math.max(256, 2 ** Math.round(Math.log2(gibibytes * 256))));
}

/** A name that can be shown: one line, no control characters, of bounded length; the default where nothing is left. */
export function cleanName(name: string, fallback: string): string {
  const line = name.replace(/[\p{Cc}\p{Cf}\p{Cs}\s]+/gu, " ").trim();
  // By characters, so that none is cut in two.
  const clean = [...line].slice(0, MAX_NAME_LENGTH).join("").trim();
  return clean || fallback;
}

// Storage may be forbidden (private windows, third-party frames): then nothing is remembered.
function recall(key: string): string | undefined {
  try {
    return localStorage.getItem(key) ?? undefined;
  } catch {
    return undefined;
  }
}

function remember(key: string, value: string): void {
  try {
    localStorage.setItem(key, value);
  } catch {}
}

/** The name this machine had last, else the default. */
export const recallName = (): string => cleanName(recall(NAME_KEY) ?? "", defaultName());

/** Keeps a name for the next time; a default one is not kept, so that a better default can come. */
export const rememberName = (name: string): void => remember(NAME_KEY, name === defaultName() ? "" : name);

/** MiB offered last, else the default. */
export function recallMemoryMiB(): number {
  const value = Number(recall(MEMORY_KEY));
  return Number.isFinite(value) && value >= 16 ? value : defaultMemoryMiB();
}

/** Keeps the offer for the next time. */
export const rememberMemoryMiB = (memoryMiB: number): void => remember(MEMORY_KEY, String(memoryMiB));
