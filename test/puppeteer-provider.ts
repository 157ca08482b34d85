/** Vitest's browser mode on the Chrome that Ringwise finds for itself, driven by Puppeteer (no Playwright download). */
import { defineBrowserProvider } from "@vitest/browser";
import type { Browser, Page } from "puppeteer-core";
import type { BrowserProvider, TestProject } from "vitest/node";
import { launchChrome } from "../src/cli/chrome.ts";

class PuppeteerProvider implements BrowserProvider {
  readonly name = "puppeteer";
  readonly supportsParallelism = false;
  private browser: Promise<Browser> | undefined;
  private readonly pages = new Map<string, Page>();

  constructor(readonly project: TestProject) {}

  getCommandsContext(sessionId: string): Record<string, unknown> {
    return { page: this.pages.get(sessionId) };
  }

  async openPage(sessionId: string, url: string): Promise<void> {
    this.browser ??= launchChrome();
    const browser = await this.browser;
    // WebRTC: on a machine without a default route, Chrome gathers candidates only for origins that may use a camera.
    await browser.defaultBrowserContext().overridePermissions(new URL(url).origin, ["camera", "microphone"]);
    const page = await browser.newPage();
    page.on("pageerror", (error) => console.error(`[page] ${String(error)}`));
    this.pages.set(sessionId, page);
    await page.goto(url);
  }

  async getCDPSession(sessionId: string) {
    const session = await this.pages.get(sessionId)!.createCDPSession();
    return {
      send: (method: string, params: unknown) => session.send(method as never, params as never),
      on: (event: string, listener: (...args: unknown[]) => void) => void session.on(event as never, listener as never),
      off: (event: string, listener: (...args: unknown[]) => void) =>
        void session.off(event as never, listener as never),
      once: (event: string, listener: (...args: unknown[]) => void) =>
        void session.once(event as never, listener as never),
    };
  }

  async close(): Promise<void> {
    const browser = await this.browser;
    this.pages.clear();
    await browser?.close();
  }
}

/** `provider: puppeteer()` in a Vitest project. */
export const puppeteer = () =>
  defineBrowserProvider({
    name: "puppeteer",
    supportedBrowser: ["chrome"],
    providerFactory: (project) => new PuppeteerProvider(project) as never,
  });
