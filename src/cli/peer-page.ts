/** The peer page from Node's side: opens it in a Chrome, opens peers in it, calls them. */
import type { Browser, Page } from "puppeteer-core";
import type { PageEvent, PeerOpened, PeerPage, PeerSetup } from "../../bench/page/peer-protocol.ts";
import { JobError } from "./errors.ts";
import type { JobAnswer } from "./harness-answer.ts";
import type { PeerCall } from "./peer-job.ts";

/** A page that holds peers. */
export interface PeerPageHandle {
  readonly page: Page;
  open(setup: PeerSetup): Promise<PeerOpened>;
  /** @throws {JobError} with the name that the error had in the page, or when the page goes. */
  call<T>(id: string, request: PeerCall): Promise<T>;
  /** Ends a peer's worker without a word. */
  terminate(id: string): Promise<void>;
}

/** How a page is opened. */
export interface PeerPageOptions {
  browser: Browser;
  /** e.g. "http://localhost:8080/" */
  url: string;
  onEvent: (event: PageEvent) => void;
  log: (line: string) => void;
}

/**
 * On a machine without a default route Chrome gathers no candidates to connect by, unless the page may use a camera and a
 * microphone: then it shows the page every address, the local ones too.
 */
export async function allowLocalConnections(browser: Browser, url: string): Promise<void> {
  await browser.defaultBrowserContext().overridePermissions(new URL(url).origin, ["camera", "microphone"]);
}

/** Opens the peer page. */
export async function openPeerPage(options: PeerPageOptions): Promise<PeerPageHandle> {
  const { browser, url, onEvent, log } = options;
  const page = await browser.newPage();
  page.on("pageerror", (error) => log(`[page] ${String(error)}`));
  const gone = new Promise<never>((_, reject) => {
    page.once("error", (error) => reject(new JobError("PageCrashedError", `the page crashed: ${error.message}`)));
    page.once("close", () => reject(new JobError("PageClosedError", "the page was closed before it finished")));
    browser.once("disconnected", () => reject(new JobError("BrowserClosedError", "the browser ended")));
  });
  gone.catch(() => {});
  await page.exposeFunction("ringwisePeerEmit", onEvent);
  await page.goto(new URL("peer.html", url).href);
  await page.waitForFunction("globalThis.ringwisePeer !== undefined", { timeout: 60_000 });

  async function answered<T>(work: Promise<unknown>): Promise<T> {
    const answer = (await Promise.race([work, gone])) as JobAnswer<T>;
    if (!answer.ok) throw new JobError(answer.name, answer.message);
    return answer.result;
  }
  type Scope = { ringwisePeer: PeerPage };
  return {
    page,
    open: (setup) =>
      answered<PeerOpened>(
        page.evaluate((setup) => (globalThis as unknown as Scope).ringwisePeer.open(setup), setup as never),
      ),
    call: <T>(id: string, request: PeerCall) =>
      answered<T>(
        page.evaluate(
          (id, request) => (globalThis as unknown as Scope).ringwisePeer.call(id, request),
          id,
          request as never,
        ),
      ),
    terminate: (id) => page.evaluate((id) => (globalThis as unknown as Scope).ringwisePeer.terminate(id), id),
  };
}
