/** `ringwise demo`: serves the demo page and opens it, or drives that same page in headless Chrome. */
import { mkdirSync, readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { Command, Option } from "commander";
import type { Page } from "puppeteer-core";
import type { GenerateStatistics } from "../index.ts";
import { selfSignedCertificate } from "./certificate.ts";
import { launchChrome } from "./chrome.ts";
import { JobError, UsageError } from "./errors.ts";
import { integer } from "./parse.ts";
import { builtFolder } from "./paths.ts";
import { formatRing, formatSpeed } from "./ring-table.ts";
import { type ServeOptions, type StaticServer, serve } from "./server.ts";
import { adapterOption, chromeAdapter, jsonOption } from "./shared-options.ts";
import { openTerminal, type Terminal } from "./terminal.ts";

interface DemoFlags {
  port: number;
  headless?: boolean;
  open: boolean;
  lan?: boolean;
  cert?: string;
  key?: string;
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
  const { protocol, hostname, origin } = new URL(url);
  const trustedOrigins = protocol === "http:" && hostname !== "localhost" ? [origin] : [];
  const browser = await launchChrome({ headless: false, trustedOrigins, log: terminal.log });
  const [first] = await browser.pages();
  const page = first ?? (await browser.newPage());
  await page.goto(url);
  terminal.log("Close the window or press Ctrl-C to end.");
  await new Promise<void>((closed) => browser.once("disconnected", () => closed()));
}

function readPem(flag: string, file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new UsageError(`--${flag} ${file}: ${(error as Error).message}`);
  }
}

/** Who may come, and by http or https. @throws {UsageError} */
async function serveOptions({ lan, cert, key }: DemoFlags, terminal: Terminal): Promise<ServeOptions> {
  if ((cert === undefined) !== (key === undefined))
    throw new UsageError("demo: expected --cert and --key together, got one of them");
  const host = lan ? { host: "0.0.0.0" } : {};
  if (cert !== undefined && key !== undefined)
    return { ...host, tls: { cert: readPem("cert", cert), key: readPem("key", key) } };
  if (!lan) return host;
  try {
    return { ...host, tls: await selfSignedCertificate() };
  } catch (error) {
    terminal.log((error as Error).message);
    return host;
  }
}

/** Says where the page is, and what other machines need to know. */
function announce(server: StaticServer, { lan, cert }: DemoFlags, terminal: Terminal): void {
  terminal.log(`Ringwise is served at ${server.url}`);
  if (!lan) return;
  terminal.log(`On this network: ${server.lanUrls.join(" ")}`);
  if (server.url.startsWith("http:"))
    terminal.log(
      "Browsers give WebGPU to https and to localhost only. On other machines join with: ringwise peer --join LINK (or serve by https, with --cert and --key).",
    );
  else if (cert === undefined)
    terminal.log(
      "Its certificate was made just now and nobody vouches for it: browsers ask once whether to go on. What peers say to each other is secured by the invitation itself. With --cert and --key (from mkcert, say) nothing is asked.",
    );
}

async function demo(flags: DemoFlags): Promise<void> {
  const terminal = openTerminal(flags.json === true);
  const server = await serve(
    [{ path: "/", folder: builtFolder("demo") }],
    flags.port,
    await serveOptions(flags, terminal),
  );
  try {
    if (flags.headless || (flags.open && !hasDisplay() && !flags.lan))
      return await driveHeadless(server.url, flags, terminal);
    announce(server, flags, terminal);
    if (flags.json) terminal.result({ url: server.url, lanUrls: server.lanUrls }, "");
    // The invitation points at the address that the page has: others cannot come to "localhost".
    if (flags.open && hasDisplay()) return await openWindow(server.lanUrls[0] ?? server.url, terminal);
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
    .option("--lan", "let other machines of this network open the page and join its ring (by https)")
    .option("--cert <file>", "serve by https: the certificate (PEM)")
    .option("--key <file>", "serve by https: the certificate's key (PEM)")
    .option("--screenshot <file>", "headless: where the screenshot goes", "out/ringwise-demo.png")
    .addOption(new Option("--world-size <n>", "headless: ranks of the ring").argParser(integer(1, 64)).default(4))
    .option("--length <n>", "headless: tokens of the default text", integer(256, 1_000_000), 4096)
    .addOption(adapterOption())
    .addOption(jsonOption())
    .action(demo);
}
