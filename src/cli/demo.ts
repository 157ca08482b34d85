/** `ringwise demo`: serves the demo page and opens it, or drives that same page in headless Chrome. */
import { mkdirSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { Command, Option } from "commander";
import type { Page } from "puppeteer-core";
import type { GenerateStatistics } from "../index.ts";
import { launchChrome } from "./chrome.ts";
import { JobError } from "./errors.ts";
import { integer } from "./parse.ts";
import { builtFolder } from "./paths.ts";
import { formatRing, formatSpeed } from "./ring-table.ts";
import { serve } from "./server.ts";
import { adapterOption, chromeAdapter, jsonOption } from "./shared-options.ts";
import { openTerminal, type Terminal } from "./terminal.ts";

interface DemoFlags {
  port: number;
  headless?: boolean;
  open: boolean;
  screenshot: string;
  worldSize: number;
  length: number;
  adapter?: string;
  json?: boolean;
}

/** What the page says when a run has ended (`window.ringwiseDemo.result`, see demo/). */
interface DemoResult {
  state: "done" | "stopped" | "failed";
  answer: string;
  expected?: string;
  found?: boolean;
  statistics?: GenerateStatistics;
  error?: { title: string; what: string; todo: string; name: string; message: string };
  modelName: string;
  adapterName: string;
}

/** The part of the page that is driven. */
interface DemoHook {
  result: Promise<DemoResult>;
  onPiece?: (text: string) => void;
  progress?: unknown;
}

/** Without a window system there is nothing to open a window on. */
const hasDisplay = () =>
  process.platform === "darwin" ||
  process.platform === "win32" ||
  Boolean(process.env.DISPLAY || process.env.WAYLAND_DISPLAY);

/** The page with its default model and text on a ring of the given size: answer, figures, screenshot. */
async function driveHeadless(url: string, flags: DemoFlags, terminal: Terminal): Promise<void> {
  const browser = await launchChrome({ adapter: chromeAdapter(flags.adapter), log: terminal.log });
  try {
    const page = await browser.newPage();
    await page.setViewport({ width: 1280, height: 1000 });
    page.on("pageerror", (error) => terminal.log(`[page] ${String(error)}`));
    await page.exposeFunction("ringwisePiece", (text: string) => terminal.write(text));
    await page.exposeFunction("ringwiseProgress", (message: string) => terminal.progress(message));
    const query = new URLSearchParams({
      autorun: "1",
      worldSize: String(flags.worldSize),
      length: String(flags.length),
    });
    terminal.log(`${await browser.version()}, headless: ${url}?${query}`);
    await page.goto(`${url}?${query}`);
    const result = await resultOf(page);
    const screenshot = resolve(flags.screenshot);
    mkdirSync(dirname(screenshot), { recursive: true });
    await page.screenshot({ path: screenshot as `${string}.png`, fullPage: true });
    terminal.write("\n");
    report(result, screenshot, terminal);
  } finally {
    await browser.close();
  }
}

/** Waits for the run to end, handing on the answer's pieces and the status line as they come. */
async function resultOf(page: Page): Promise<DemoResult> {
  await page.waitForFunction("globalThis.ringwiseDemo !== undefined", { timeout: 60_000 });
  return page.evaluate(async () => {
    const scope = globalThis as unknown as {
      ringwiseDemo: DemoHook;
      ringwisePiece(text: string): void;
      ringwiseProgress(message: string): void;
    };
    const hook = scope.ringwiseDemo;
    hook.onPiece = (text) => scope.ringwisePiece(text);
    let last = "";
    const timer = setInterval(() => {
      const texts = ["#status", "#status-figures"].map((selector) => document.querySelector(selector)?.textContent);
      const status = texts.join(" ").trim().replace(/\s+/g, " ");
      if (status && status !== last) scope.ringwiseProgress(status);
      last = status;
    }, 1000);
    try {
      return await hook.result;
    } finally {
      clearInterval(timer);
    }
  });
}

function report(result: DemoResult, screenshot: string, terminal: Terminal): void {
  const lines = [`model ${result.modelName} on ${result.adapterName}`];
  if (result.expected !== undefined)
    lines.push(`expected ${JSON.stringify(result.expected)}: ${result.found ? "found" : "NOT found"}`);
  if (result.statistics) lines.push(formatSpeed(result.statistics), formatRing(result.statistics.ring));
  lines.push(`screenshot: ${screenshot}`);
  if (result.state !== "done" || result.found === false) {
    terminal.log(lines.join("\n"));
    const { name = "DemoError", message = `the run ended "${result.state}"` } = result.error ?? {};
    throw new JobError(name, result.found === false ? `the answer lacks ${JSON.stringify(result.expected)}` : message);
  }
  terminal.result({ ...result, screenshot }, lines.join("\n"));
}

/** A window on the page, in a Chrome that has WebGPU switched on; the command ends when it is closed. */
async function openWindow(url: string, terminal: Terminal): Promise<void> {
  const browser = await launchChrome({ headless: false, log: terminal.log });
  const [first] = await browser.pages();
  const page = first ?? (await browser.newPage());
  await page.goto(url);
  terminal.log("Close the window or press Ctrl-C to end.");
  await new Promise<void>((closed) => browser.once("disconnected", () => closed()));
}

async function demo(flags: DemoFlags): Promise<void> {
  const terminal = openTerminal(flags.json === true);
  const server = await serve([{ path: "/", folder: builtFolder("demo") }], flags.port);
  try {
    if (flags.headless || (flags.open && !hasDisplay())) return await driveHeadless(server.url, flags, terminal);
    terminal.log(`Ringwise is served at ${server.url}`);
    if (flags.json) terminal.result({ url: server.url }, "");
    if (flags.open) return await openWindow(server.url, terminal);
    await new Promise(() => {}); // until Ctrl-C
  } finally {
    await server.close();
  }
}

/** The `demo` command. */
export function demoCommand(): Command {
  return new Command("demo")
    .description("serve the demo page and open it; without a display, run it in headless Chrome")
    .option("--port <n>", "port on localhost; 0: any free one", integer(0, 65_535), 0)
    .option("--headless", "run the default text in headless Chrome, print the answer, write a screenshot")
    .option("--no-open", "serve only")
    .option("--screenshot <file>", "headless: where the screenshot goes", "out/ringwise-demo.png")
    .addOption(new Option("--world-size <n>", "headless: ranks of the ring").argParser(integer(1, 64)).default(4))
    .option("--length <n>", "headless: tokens of the default text", integer(256, 1_000_000), 4096)
    .addOption(adapterOption())
    .addOption(jsonOption())
    .action(demo);
}
