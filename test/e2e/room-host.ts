/** Real pages with rooms: the test page built and served as the demo is (relay, Content-Security-Policy), in real Chrome. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Browser, Page } from "puppeteer-core";
import { build } from "vite";
import { launchChrome } from "../../src/cli/chrome.ts";
import { type ServeOptions, type StaticServer, serve } from "../../src/cli/server.ts";
import type { RoomOptions } from "../../src/room/types.ts";
import type { RoomPage } from "./room-page/main.ts";

/** Plain options only: they cross into the page. */
export type PageRoomOptions = Partial<
  Pick<RoomOptions, "invitation" | "signalling" | "lanes" | "link" | "maxPeers" | "pageUrl">
>;

/** One page in a room. */
export interface RoomGuest {
  page: Page;
  selfId: string;
  invitation: string;
  errors: string[];
  log(): Promise<RoomPage["log"]>;
  /** Waits for something to be told. */
  until(what: string, peerId?: string, count?: number): Promise<RoomPage["log"][number]>;
  echo(peerId: string, text: string): Promise<{ text: string; milliseconds: number }>;
}

/** See {@link startRooms}. */
export interface RoomHost {
  server: StaticServer;
  /** A new browser, with a profile of its own. */
  browser(): Promise<Browser>;
  join(browser: Browser, options?: PageRoomOptions): Promise<RoomGuest>;
  close(): Promise<void>;
}

/** Builds the page and serves it. */
export async function startRooms(options: ServeOptions = {}): Promise<RoomHost> {
  const outDir = mkdtempSync(join(tmpdir(), "ringwise-room-"));
  await build({
    root: fileURLToPath(new URL("./room-page", import.meta.url)),
    base: "./",
    configFile: false,
    logLevel: "error",
    worker: { format: "es" },
    build: { outDir, emptyOutDir: true, target: "es2022" },
  });
  const server = await serve([{ path: "/", folder: outDir }], 0, options);
  const browsers: Browser[] = [];
  return {
    server,
    async browser() {
      const browser = await launchChrome();
      browsers.push(browser);
      // Without a default route Chromium gathers candidates only where camera and microphone are allowed.
      await browser.defaultBrowserContext().overridePermissions(new URL(server.url).origin, ["camera", "microphone"]);
      return browser;
    },
    async join(browser, roomOptions = {}) {
      const page = await browser.newPage();
      const errors: string[] = [];
      page.on("pageerror", (error) => errors.push(String(error)));
      page.on("console", (message) => {
        if (message.type() === "error") errors.push(message.text());
      });
      await page.goto(server.url);
      while (!(await page.evaluate(() => window.page !== undefined))) await new Promise((next) => setTimeout(next, 20));
      const { selfId, invitation } = await page.evaluate((given) => window.page.join(given), roomOptions);
      const log = () => page.evaluate(() => window.page.log);
      return {
        ...{ page, selfId, invitation, errors, log },
        async until(what, peerId, count = 1) {
          const deadlineMs = performance.now() + 30_000;
          for (;;) {
            const entries = await log();
            const found = entries.filter(
              (entry) => entry.what === what && (peerId === undefined || entry.peerId === peerId),
            );
            if (found.length >= count) return found[count - 1]!;
            if (performance.now() > deadlineMs)
              throw new Error(`until: no ${count} x "${what}" of ${peerId} in\n${JSON.stringify(entries, null, 1)}`);
            await new Promise((next) => setTimeout(next, 25));
          }
        },
        echo: (peerId, text) => page.evaluate((id, sent) => window.page.echo(id, sent), peerId, text),
      };
    },
    async close() {
      for (const browser of browsers) await browser.close();
      await server.close();
      rmSync(outDir, { recursive: true, force: true });
    },
  };
}
