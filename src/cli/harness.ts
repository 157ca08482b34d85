/** The page that the command line drives, from Node's side: serve it, open it in a headless Chrome, run a job, close all. */
import type { Page } from "puppeteer-core";
import { launchChrome } from "./chrome.ts";
import { JobError } from "./errors.ts";
import type { JobAnswer } from "./harness-answer.ts";
import { builtFolder } from "./paths.ts";
import { type Mount, serve } from "./server.ts";

/** How a page is opened. */
export interface HarnessOptions<Event> {
  adapter?: "swiftshader" | "default";
  /** Further folders to serve beside the page, e.g. a model's. */
  mounts?: readonly Mount[];
  onEvent: (event: Event) => void;
  /** Called with the page before the job starts, e.g. to watch its memory. */
  onPage?: (page: Page) => void;
  log: (line: string) => void;
}

/** Waits for a promise, or rejects as soon as the page or the browser is gone. */
function orGone<T>(page: Page, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    page.once("error", (error) => reject(new JobError("PageCrashedError", `the page crashed: ${error.message}`)));
    page.once("close", () => reject(new JobError("PageClosedError", "the page was closed before it finished")));
    work.then(resolve, reject);
  });
}

const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** Ctrl-C (and its like) cleans up and ends the process with the code that shells expect. @returns takes it back */
function onSignals(cleanUp: () => Promise<void>): () => void {
  const listeners = Object.entries(SIGNALS).map(([signal, code]) => {
    const listener = () => {
      cleanUp()
        .catch(() => {})
        .finally(() => process.exit(code));
    };
    process.once(signal, listener);
    return () => process.off(signal, listener);
  });
  return () => {
    for (const stop of listeners) stop();
  };
}

/**
 * Opens the harness page and runs one job in it. Server and browser are closed whatever happens.
 * @throws {JobError} with the name and message of what was thrown in the page.
 */
export async function runInPage<Result, Event>(
  name: string,
  job: unknown,
  options: HarnessOptions<Event>,
): Promise<Result> {
  const server = await serve([{ path: "/", folder: builtFolder("harness") }, ...(options.mounts ?? [])]);
  try {
    // Puppeteer's own way of ending on signals leaves Chrome's profile folder behind.
    const launching = launchChrome({ adapter: options.adapter, log: options.log, endsOnSignals: false });
    let closing: Promise<void> | undefined;
    const close = async () => (closing ??= launching.then((browser) => browser.close()));
    const stopListening = onSignals(close);
    const browser = await launching.catch((error: unknown) => {
      stopListening();
      throw error;
    });
    try {
      const page = await browser.newPage();
      page.on("pageerror", (error) => options.log(`[page] ${String(error)}`));
      await page.exposeFunction("ringwiseEmit", (event: Event) => options.onEvent(event));
      await page.goto(server.url);
      await page.waitForFunction("globalThis.ringwiseHarness !== undefined", { timeout: 60_000 });
      options.onPage?.(page);
      const answer = await orGone(
        page,
        page.evaluate(
          (name, job) =>
            (
              globalThis as unknown as { ringwiseHarness: (name: string, job: unknown) => Promise<JobAnswer<Result>> }
            ).ringwiseHarness(name, job),
          name,
          job,
        ),
      );
      if (!answer.ok) throw new JobError(answer.name, answer.message);
      return answer.result;
    } finally {
      await close();
      stopListening();
    }
  } finally {
    await server.close();
  }
}
