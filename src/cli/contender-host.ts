/**
 * One browser, and a page for each contender in it, from Node's side. Every page has a browser context (so a process) and a
 * device of its own: whoever crashes is opened again, and what one library does to WebGPU's prototypes stays in its page.
 */
import type { Browser, BrowserContext, CDPSession, Page } from "puppeteer-core";
import type { ContenderMethods, Opened } from "../../bench/against/contender.ts";
import type { ContenderHandle } from "../../bench/against/run.ts";
import { launchChrome } from "./chrome.ts";
import { JobError } from "./errors.ts";
import type { JobAnswer } from "./harness-answer.ts";
import { builtFolder } from "./paths.ts";
import { CONTENT_SECURITY_POLICY, type Mount, serve } from "./server.ts";

/** See {@link openContenderHost}. */
export interface ContenderHostOptions {
  adapter?: "swiftshader" | "default";
  /** A node_modules folder with the peers' packages; without it only Ringwise's page works. */
  peersFolder?: string;
  /** Further folders to serve, e.g. a model's. */
  mounts?: readonly Mount[];
  /** What one question to a page may take before its contender counts as failed. */
  limitMs: number;
  log: (line: string) => void;
}

/** A browser with contenders' pages. */
export interface ContenderHost {
  /** The page of a contender (a name of bench/page/against.ts); nothing is opened yet. */
  contender(name: string): ContenderHandle;
  /** "Chrome/156.0..." */
  version(): Promise<string>;
  close(): Promise<void>;
}

/** The peers' libraries compile WebAssembly and make functions from text. Only their pages may. */
const PEERS_POLICY = CONTENT_SECURITY_POLICY.replace(
  "script-src 'self'",
  "script-src 'self' 'unsafe-eval' 'wasm-unsafe-eval' blob:",
).replace("worker-src 'self'", "worker-src 'self' blob:");

/** A contender that crashes the GPU process a few times must not make Chrome refuse WebGPU to the others. */
const CHROME_ARGUMENTS = ["--disable-gpu-process-crash-limit", "--disable-domain-blocking-for-3d-apis"];

/** The browser, started again where it died or had to be killed. */
class Chrome {
  private browser: Browser | undefined;
  private session: CDPSession | undefined;

  constructor(private readonly options: ContenderHostOptions) {}

  async open(): Promise<Browser> {
    if (this.browser?.connected) return this.browser;
    const { adapter, log } = this.options;
    this.browser = await launchChrome({ adapter, log, extraArguments: CHROME_ARGUMENTS });
    this.session = await this.browser.target().createCDPSession();
    return this.browser;
  }

  /** Processor seconds of the GPU process so far; undefined where Chrome does not tell. */
  async gpuSeconds(): Promise<number | undefined> {
    const answer = await this.session?.send("SystemInfo.getProcessInfo").catch(() => undefined);
    return answer?.processInfo.find(({ type }) => type === "GPU")?.cpuTime;
  }

  async close(): Promise<void> {
    const { browser } = this;
    this.browser = this.session = undefined;
    await browser?.close().catch(() => undefined);
  }
}

/** The page of one contender. */
class ContenderPage implements ContenderHandle {
  private context: BrowserContext | undefined;
  private page: Page | undefined;
  private isCpu = false;

  constructor(
    private readonly name: string,
    private readonly chrome: Chrome,
    private readonly url: string,
    private readonly options: ContenderHostOptions,
  ) {}

  async open(): Promise<Opened> {
    await this.close();
    const { name, options } = this;
    this.context = await (await this.chrome.open()).createBrowserContext();
    const page = await this.context.newPage();
    this.page = page;
    page.on("pageerror", (error) => options.log(`[${name}] ${String(error)}`));
    page.once("error", () => (this.page = undefined));
    await page.goto(`${this.url}against.html?contender=${encodeURIComponent(name)}`);
    await page.waitForFunction("globalThis.ringwiseContender !== undefined", { timeout: 60_000 });
    const opened = (await this.call("open")) as Opened;
    this.isCpu = opened.isCpu;
    return opened;
  }

  async isAlive(): Promise<boolean> {
    if (!this.page || this.page.isClosed()) return false;
    return this.gpu().then(
      ({ lost }) => lost === undefined,
      () => false,
    );
  }

  prepare(kind: string, job: unknown) {
    return this.call("prepare", kind, job) as ReturnType<ContenderHandle["prepare"]>;
  }

  async sample(count: number) {
    const before = this.isCpu ? await this.chrome.gpuSeconds() : undefined;
    const timeMs = (await this.call("sample", count)) as number;
    const after = before === undefined ? undefined : await this.chrome.gpuSeconds();
    return { timeMs, ...(after !== undefined && { cpuSeconds: (after - before!) / count }) };
  }

  answer(question: unknown) {
    return this.call("answer", question);
  }

  gpu() {
    return this.call("gpu") as ReturnType<ContenderHandle["gpu"]>;
  }

  async close(): Promise<void> {
    const { context } = this;
    this.context = this.page = undefined;
    await context?.close().catch(() => undefined);
  }

  /** Calls a method in the page. @throws {JobError} with the name of what was thrown there, or of how the page ended. */
  private async call(method: keyof ContenderMethods, ...args: unknown[]): Promise<unknown> {
    const { page, name, options } = this;
    if (!page || page.isClosed()) throw new JobError("PageClosedError", "the page was closed");
    const seconds = Math.round(options.limitMs / 1000);
    let stopListening = () => {};
    const ended = new Promise<never>((_, reject) => {
      const onTimeout = () =>
        reject(new JobError("TimeLimitError", `"${method}" took more than the ${seconds} s of --contender-seconds`));
      const onCrash = ({ message }: Error) => reject(new JobError("PageCrashedError", `the page crashed: ${message}`));
      const onClose = () => reject(new JobError("PageClosedError", "the page was closed"));
      const timer = setTimeout(onTimeout, options.limitMs);
      page.on("error", onCrash).on("close", onClose);
      stopListening = () => {
        clearTimeout(timer);
        page.off("error", onCrash).off("close", onClose);
      };
    });
    const work = page.evaluate(
      (method, args) =>
        (
          globalThis as unknown as {
            ringwiseContender: (method: string, ...args: unknown[]) => Promise<JobAnswer<unknown>>;
          }
        ).ringwiseContender(method, ...args),
      method,
      args,
    );
    // Whichever comes second is heard by nobody.
    ended.catch(() => undefined);
    work.catch(() => undefined);
    try {
      const answer = (await Promise.race([work, ended])) as JobAnswer<unknown>;
      if (!answer.ok) throw new JobError(answer.name, answer.message);
      return answer.result;
    } catch (error) {
      if ((error as Error).name === "TimeLimitError") {
        // Work that was submitted goes on after its page: only a new browser has the processors to itself.
        options.log(`${name} is stopped after ${seconds} s; the browser starts anew`);
        await this.chrome.close();
      }
      throw error;
    } finally {
      stopListening();
    }
  }
}

/** Serves the pages and starts the browser. The caller closes it. */
export async function openContenderHost(options: ContenderHostOptions): Promise<ContenderHost> {
  const mounts = [{ path: "/", folder: builtFolder("harness") }, ...(options.mounts ?? [])];
  if (options.peersFolder) mounts.push({ path: "/peers/", folder: options.peersFolder });
  const server = await serve(mounts, 0, { contentSecurityPolicy: PEERS_POLICY });
  const chrome = new Chrome(options);
  // Puppeteer closes the browser; without an end of the process, the next question would start it again.
  const onTerminate = () => process.exit(143);
  process.once("SIGTERM", onTerminate);
  const close = async () => {
    process.off("SIGTERM", onTerminate);
    await chrome.close();
    await server.close();
  };
  try {
    await chrome.open();
  } catch (error) {
    await close();
    throw error;
  }
  return {
    contender: (name) => new ContenderPage(name, chrome, server.url, options),
    version: async () => (await chrome.open()).version(),
    close,
  };
}
