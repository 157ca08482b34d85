/**
 * Finding (or fetching) a Chrome with WebGPU, and starting it headless: the one place that knows how.
 * Used by `npm start`, the tests' Vitest provider, the command line and the benches.
 */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import {
  Browser as BrowserName,
  computeExecutablePath,
  detectBrowserPlatform,
  getInstalledBrowsers,
  install,
  resolveBuildId,
} from "@puppeteer/browsers";
import puppeteer, { type Browser } from "puppeteer-core";
import { hasGpu } from "./gpu-presence.ts";

/** No Chrome was found and none could be fetched; the message says what to do. */
export class ChromeNotFoundError extends Error {
  override name = "ChromeNotFoundError";
}

const ENVIRONMENT_VARIABLES = ["RINGWISE_CHROME", "CHROME_PATH", "PUPPETEER_EXECUTABLE_PATH"] as const;

const SYSTEM_PATHS: Partial<Record<NodeJS.Platform, readonly string[]>> = {
  linux: [
    "/usr/bin/google-chrome-stable",
    "/usr/bin/google-chrome",
    "/opt/google/chrome/chrome",
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/snap/bin/chromium",
  ],
  darwin: [
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
  ],
  win32: [
    "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
    "C:\\Program Files (x86)\\Google\\Chrome\\Application\\chrome.exe",
  ],
};

const puppeteerCache = () => process.env.PUPPETEER_CACHE_DIR ?? join(homedir(), ".cache", "puppeteer");

/** A Chrome that is already on this machine, or undefined. Looks at the environment, the system, Puppeteer's cache. */
export async function findInstalledChrome(): Promise<string | undefined> {
  for (const name of ENVIRONMENT_VARIABLES) {
    const path = process.env[name];
    if (!path) continue;
    if (existsSync(path)) return path;
    throw new ChromeNotFoundError(`${name} names "${path}", and no file is there; point it at a Chrome or unset it.`);
  }
  for (const path of SYSTEM_PATHS[process.platform] ?? []) if (existsSync(path)) return path;
  const cached = await getInstalledBrowsers({ cacheDir: puppeteerCache() }).catch(() => []);
  return cached.find((browser) => browser.browser === BrowserName.CHROME && existsSync(browser.executablePath))
    ?.executablePath;
}

/** Runs an attempt to get a Chrome, and turns its failure into a line for the final error. */
async function attempt(what: string, failures: string[], get: () => Promise<string>): Promise<string | undefined> {
  try {
    return await get();
  } catch (error) {
    failures.push(`${what}: ${String((error as Error).message).split("\n")[0]}`);
    return undefined;
  }
}

async function downloadChrome(): Promise<string> {
  const platform = detectBrowserPlatform();
  if (!platform) throw new Error(`no Chrome build exists for ${process.platform}/${process.arch}`);
  const buildId = await resolveBuildId(BrowserName.CHROME, platform, "stable");
  const cacheDir = puppeteerCache();
  await install({ browser: BrowserName.CHROME, buildId, cacheDir });
  return computeExecutablePath({ browser: BrowserName.CHROME, buildId, cacheDir });
}

async function installDebianChromium(): Promise<string> {
  if (process.platform !== "linux" || !existsSync("/usr/bin/apt-get")) throw new Error("this is not Debian or Ubuntu");
  if (process.getuid?.() !== 0) throw new Error("needs root");
  // Everything apt prints goes to standard error: standard output belongs to the command's own result.
  const apt = (...args: string[]) =>
    execFileSync("apt-get", args, {
      stdio: ["ignore", 2, 2],
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    });
  apt("update", "-qq");
  apt("install", "-y", "-qq", "--no-install-recommends", "chromium");
  return "/usr/bin/chromium";
}

/**
 * The path of a Chrome: one that is installed, else one fetched with `@puppeteer/browsers`, else, as root on Debian or
 * Ubuntu, the `chromium` package.
 * @throws {ChromeNotFoundError} saying in one sentence what to do.
 */
export async function ensureChrome(log: (line: string) => void = (line) => console.error(line)): Promise<string> {
  const installed = await findInstalledChrome();
  if (installed) return installed;
  const failures: string[] = [];
  log("No Chrome on this machine yet: fetching one.");
  const path =
    (await attempt("download", failures, downloadChrome)) ??
    (await attempt("apt-get install chromium", failures, installDebianChromium));
  if (path) return path;
  throw new ChromeNotFoundError(
    `Install Google Chrome or Chromium, or set RINGWISE_CHROME to its path (${failures.join("; ")}).`,
  );
}

/**
 * The adapter Chrome is started with: `RINGWISE_ADAPTER` or the argument ("swiftshader" or "default"), else
 * SwiftShader exactly where the machine shows no GPU device.
 */
export function chooseAdapter(adapter = process.env.RINGWISE_ADAPTER): "swiftshader" | "default" {
  if (adapter === "swiftshader" || adapter === "default") return adapter;
  if (adapter) throw new TypeError(`chooseAdapter: expected "swiftshader" or "default", got "${adapter}"`);
  return hasGpu() ? "default" : "swiftshader";
}

/** The command-line switches for a headless Chrome with WebGPU. */
export function chromeArguments(adapter = chooseAdapter()): string[] {
  const args = [
    "--enable-unsafe-webgpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
  ];
  if (adapter === "swiftshader") args.push("--use-webgpu-adapter=swiftshader");
  else if (process.platform === "linux") args.push("--enable-features=Vulkan", "--ignore-gpu-blocklist");
  if (process.getuid?.() === 0) args.push("--no-sandbox");
  return args;
}

/** How {@link launchChrome} starts the browser. */
export interface LaunchOptions {
  /** "swiftshader" (CPU) or "default" (whatever Chrome picks). */
  adapter?: "swiftshader" | "default";
  headless?: boolean;
  /** Milliseconds one protocol call may take; a long prefill is one call. Default: one hour. */
  protocolTimeoutMs?: number;
  /** Keep Puppeteer's switches against slowing down hidden tabs. Default true; false: as a person's Chrome does. */
  keepsHiddenTabsFast?: boolean;
  /** Origins without https that are trusted like one with it, e.g. "http://192.168.0.7:8080": WebGPU needs that. */
  trustedOrigins?: readonly string[];
  /** Connects to servers whose certificate nobody vouches for (a relay on the local network): what is said there is sealed. */
  acceptsAnyCertificate?: boolean;
  /** Ctrl-C ends Chrome and this process at once. Default true; false: the caller says goodbye first. */
  endsOnSignals?: boolean;
  /** Further command-line switches. */
  extraArguments?: readonly string[];
  log?: (line: string) => void;
}

/** Puppeteer's switches that hide what Chrome does to tabs that nobody sees. */
const BACKGROUND_SWITCHES = [
  "--disable-background-timer-throttling",
  "--disable-backgrounding-occluded-windows",
  "--disable-renderer-backgrounding",
];

/** Finds a Chrome and starts it with WebGPU. The caller closes it. */
export async function launchChrome(options: LaunchOptions = {}): Promise<Browser> {
  const { endsOnSignals = true } = options;
  return puppeteer.launch({
    executablePath: await ensureChrome(options.log),
    headless: options.headless ?? true,
    args: [
      ...chromeArguments(options.adapter ?? chooseAdapter()),
      ...(options.trustedOrigins?.length
        ? [`--unsafely-treat-insecure-origin-as-secure=${options.trustedOrigins.join()}`]
        : []),
      ...(options.acceptsAnyCertificate ? ["--ignore-certificate-errors"] : []),
      ...(options.extraArguments ?? []),
    ],
    ignoreDefaultArgs: options.keepsHiddenTabsFast === false ? BACKGROUND_SWITCHES : [],
    protocolTimeout: options.protocolTimeoutMs ?? 3_600_000,
    waitForInitialPage: false,
    ...{ handleSIGINT: endsOnSignals, handleSIGTERM: endsOnSignals, handleSIGHUP: endsOnSignals },
  });
}
