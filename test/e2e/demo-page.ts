/** The demo page under test: the built page on a local server, in real headless Chrome, as a person uses it. */
import type { Browser, Page, WebWorker } from "puppeteer-core";
import type { DemoResult } from "../../demo/automation.ts";
import { launchChrome } from "../../src/cli/chrome.ts";
import { builtFolder } from "../../src/cli/paths.ts";
import { type StaticServer, serve } from "../../src/cli/server.ts";

/** A browser and a server for one test file. */
export interface DemoHost {
  browser: Browser;
  /** Opens the page with URL parameters, at its fragment ("#..."), or another address of it altogether. Errors that nothing caught end up in `errors`. */
  open(query?: string, prepare?: (page: Page) => Promise<unknown>): Promise<Page>;
  errors: string[];
  url: string;
  close(): Promise<void>;
}

/** Starts both; `close` ends both. */
export async function startDemo(): Promise<DemoHost> {
  const server: StaticServer = await serve([{ path: "/", folder: builtFolder("demo") }]);
  const browser = await launchChrome();
  const errors: string[] = [];
  return {
    browser,
    errors,
    url: server.url,
    async open(query = "", prepare) {
      const page = await browser.newPage();
      page.on("pageerror", (error) => errors.push(String(error)));
      await page.setViewport({ width: 1280, height: 900 });
      await prepare?.(page);
      await page.goto(
        query.startsWith("http") ? query : query.startsWith("#") ? server.url + query : `${server.url}?${query}`,
      );
      await page.waitForFunction("window.ringwiseDemo !== undefined");
      return page;
    },
    async close() {
      await browser.close();
      await server.close();
    },
  };
}

/** How the run under way (or the next one) ends. */
export const resultOf = (page: Page): Promise<DemoResult> => page.evaluate(() => window.ringwiseDemo.result);

/** Waits until the page is in one of these states. */
export async function waitForState(page: Page, ...states: string[]): Promise<void> {
  await page.waitForFunction(
    (list) => list.includes(document.documentElement.dataset.state!),
    { timeout: 60_000 },
    states,
  );
}

/** Sets a control of the form by its name, as a person's hand would. */
export async function setControl(page: Page, name: string, value: string): Promise<void> {
  await page.$eval(
    `[name=${name}]`,
    (field, text) => {
      const control = field as HTMLInputElement;
      control.value = text;
      if (control.value !== text) throw new Error(`setControl: expected ${control.name} to take "${text}"`);
      control.dispatchEvent(new Event("input", { bubbles: true }));
    },
    value,
  );
}

/** The text of an element as a person sees it. */
export const textOf = (page: Page, selector: string): Promise<string> =>
  page.$eval(selector, (element) => (element as HTMLElement).innerText.trim());

/** The worker that holds the page's GPUDevice. */
export async function engineOf(page: Page): Promise<WebWorker> {
  await page.waitForFunction("document.getElementById('adapter').dataset.kind !== undefined");
  const engine = page.workers().find((worker) => worker.url().includes("engine"));
  if (!engine)
    throw new Error(`engineOf: expected a worker named engine, got ${page.workers().map((worker) => worker.url())}`);
  return engine;
}
