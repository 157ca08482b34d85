/**
 * A whole ring of peers on this machine, run by one Node process: workers of one page, tabs of one Chrome, Chromes of their
 * own, or Node processes. `ringwise generate --peers` uses it once; the tests and the long runs take peers away and add some.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import type { Browser } from "puppeteer-core";
import type { PageEvent, PeerSetup } from "../../bench/page/peer-protocol.ts";
import type { PeerEvent } from "../index.ts";
import { launchChrome } from "./chrome.ts";
import { JobError, UsageError } from "./errors.ts";
import type { JobEvent } from "./job-progress.ts";
import { builtFolder, packageRoot } from "./paths.ts";
import type { PeerCall, PeerJob, PeerReport, PeerResult } from "./peer-job.ts";
import { allowLocalConnections, openPeerPage, type PeerPageHandle } from "./peer-page.ts";
import { type StaticServer, serve } from "./server.ts";

/** How the peers of a ring are linked, and where each lives. */
export const RING_LINKS = ["worker", "tab", "browser", "webrtc", "node"] as const;
export type RingLink = (typeof RING_LINKS)[number];

/** How a ring is opened. */
export interface RingOptions {
  peers: number;
  link: RingLink;
  /** A folder on this machine, or what `loadModel` takes as it is. */
  model: { folder: string } | { source: string };
  token?: string;
  adapter?: "swiftshader" | "default";
  /** Adapter for Node peers: other names than Chrome's. */
  nodeAdapter?: string;
  /** GPU memory for K/V of each peer. */
  memoryBytes?: number;
  /** Peers can be asked for faults. */
  isTest?: boolean;
  /** False: hidden tabs are slowed down as a person's Chrome does. */
  keepsHiddenTabsFast?: boolean;
  onEvent?: (member: RingMember, event: PeerEvent) => void;
  onJobEvent?: (event: JobEvent) => void;
  log: (line: string) => void;
}

/** One peer of the ring. */
export interface RingMember {
  readonly name: string;
  /** Its id in the ring. */
  readonly id: string;
  readonly place: "worker" | "tab" | "browser" | "node";
  /** Page and browser that it lives in. */
  readonly page?: PeerPageHandle;
  readonly browser?: Browser;
  /** Of the browser, or the Node process: what signals go to. */
  readonly pid?: number;
  readonly isGone: boolean;
  /** @throws {JobError} also when the peer goes meanwhile. Node peers answer no calls. */
  call<T>(request: PeerCall): Promise<T>;
  /** Says goodbye. */
  leave(): Promise<void>;
  /** Ends it without a word: worker terminated, tab closed (which says goodbye), browser or process killed. */
  kill(): Promise<void>;
}

/** See {@link openRing}. */
export interface PeerRing {
  readonly members: readonly RingMember[];
  /** The room's link; undefined for workers, which have none. */
  readonly invitation: string | undefined;
  /** The first one, unless it is gone: whoever says that it leads. */
  leader(): Promise<RingMember>;
  /** Adds a peer to the ring; resolves before it is ready. */
  add(): Promise<RingMember>;
  /** Waits until so many peers are ready, by the leader's word. */
  ready(count: number): Promise<void>;
  generate(job: PeerJob): Promise<PeerResult>;
  close(): Promise<void>;
}

const delay = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

/** The program that a Node peer runs: the built command line. */
const mainFile = () => join(packageRoot(), "dist", "cli", "main.js");

class Ring implements PeerRing {
  readonly members: RingMember[] = [];
  private readonly browsers = new Set<Browser>();
  private readonly children = new Set<ChildProcess>();
  private sharedBrowser: Promise<Browser> | undefined;
  private sharedPage: Promise<PeerPageHandle> | undefined;
  invitation: string | undefined;
  private count = 0;
  /** Whoever starts processes ends them, whatever ends it. */
  private readonly onExit = () => {
    for (const child of this.children) child.kill("SIGKILL");
  };

  constructor(
    private readonly options: RingOptions,
    private readonly server: StaticServer,
  ) {
    process.once("exit", this.onExit);
  }

  async add(): Promise<RingMember> {
    const { link } = this.options;
    const number = ++this.count;
    const isFirst = number === 1;
    if (link === "worker") return this.enter(await this.openWorker(`worker ${number}`));
    if (link === "node" && !isFirst) return this.enter(await this.openNode(`node ${number}`));
    const isOwnBrowser = link === "browser";
    const browser = isOwnBrowser ? await this.launch() : await (this.sharedBrowser ??= this.launch());
    return this.enter(await this.openTab(`${isOwnBrowser ? "browser" : "tab"} ${number}`, browser, isOwnBrowser));
  }

  async leader(): Promise<RingMember> {
    for (const member of this.members) {
      if (member.isGone || member.place === "node") continue;
      const report = await member.call<PeerReport>({ call: "report" }).catch(() => undefined);
      if (report?.isLeader) return member;
    }
    throw new JobError("PeerError", "leader: none of the peers that can be asked leads the ring");
  }

  async ready(count: number): Promise<void> {
    await (await this.leader()).call({ call: "ready", count });
  }

  async generate(job: PeerJob): Promise<PeerResult> {
    const { model } = this.options;
    const name = "folder" in model ? model.folder.replace(/[/\\]+$/, "").replace(/.*[/\\]/, "") : model.source;
    return (await this.leader()).call<PeerResult>({ call: "generate", job, model: name });
  }

  async close(): Promise<void> {
    process.off("exit", this.onExit);
    for (const child of this.children) child.kill("SIGCONT");
    const nodes = this.members.filter((member) => member.place === "node" && !member.isGone);
    await Promise.all(nodes.map((member) => Promise.race([member.leave(), delay(5000)])));
    for (const child of this.children) child.kill("SIGKILL");
    await Promise.all(
      [...this.browsers].map((browser) => browser.close().catch(() => browser.process()?.kill("SIGKILL"))),
    );
    await this.server.close();
  }

  private enter(member: RingMember): RingMember {
    this.members.push(member);
    return member;
  }

  private async launch(): Promise<Browser> {
    const { adapter, log, keepsHiddenTabsFast } = this.options;
    const browser = await launchChrome({ adapter, log, keepsHiddenTabsFast });
    this.browsers.add(browser);
    browser.once("disconnected", () => this.browsers.delete(browser));
    await allowLocalConnections(browser, this.server.url);
    return browser;
  }

  private openPage(browser: Browser): Promise<PeerPageHandle> {
    const onEvent = (event: PageEvent): void => {
      if (event.type === "job") this.options.onJobEvent?.(event.event);
      else if (event.type === "peer") {
        const member = this.members.find(({ id }) => id === event.id);
        if (member) this.options.onEvent?.(member, event.event);
      } else this.options.log(event.message);
    };
    return openPeerPage({ browser, url: this.server.url, onEvent, log: this.options.log });
  }

  private setup(name: string, link: PeerSetup["link"]): PeerSetup {
    const { model, token, memoryBytes, isTest } = this.options;
    const source = "folder" in model ? "/model/" : model.source;
    return { name, link, invitation: this.invitation, source, token, memoryBytes, isTest };
  }

  private async openWorker(name: string): Promise<RingMember> {
    this.sharedPage ??= (async () => this.openPage(await (this.sharedBrowser ??= this.launch())))();
    const page = await this.sharedPage;
    const { id } = await page.open(this.setup(name, "worker"));
    const browser = page.page.browser();
    return this.pageMember({ name, id, place: "worker", page, browser }, () => page.terminate(id));
  }

  private async openTab(name: string, browser: Browser, isOwnBrowser: boolean): Promise<RingMember> {
    const page = await this.openPage(browser);
    const link = { tab: "tab", webrtc: "webrtc", browser: "webrtc", node: "auto", worker: "auto" } as const;
    const { id, invitation } = await page.open(this.setup(name, link[this.options.link]));
    this.invitation ??= invitation;
    const place = isOwnBrowser ? "browser" : "tab";
    return this.pageMember({ name, id, place, page, browser, pid: browser.process()?.pid }, async () => {
      if (isOwnBrowser) browser.process()?.kill("SIGKILL");
      else await page.page.close();
    });
  }

  private pageMember(
    facts: Pick<RingMember, "name" | "id" | "place" | "browser" | "pid"> & { page: PeerPageHandle },
    end: () => Promise<void>,
  ): RingMember {
    let isGone = false;
    const { page } = facts;
    page.page.once("close", () => (isGone = true));
    page.page.once("error", () => (isGone = true));
    facts.browser?.once("disconnected", () => (isGone = true));
    return {
      ...facts,
      get isGone() {
        return isGone;
      },
      call: <T>(request: PeerCall) => page.call<T>(facts.id, request),
      async leave() {
        isGone = true;
        await page.call(facts.id, { call: "leave" });
        if (facts.place !== "worker") await page.page.close();
      },
      async kill() {
        isGone = true;
        await end();
      },
    };
  }

  private async openNode(name: string): Promise<RingMember> {
    const { model, nodeAdapter, log } = this.options;
    if (!this.invitation) throw new UsageError("openNode: expected a room to join, got none");
    const place = "folder" in model ? model.folder : model.source;
    const args = ["peer", "--join", this.invitation, "--runtime", "node", "--name", name, "--model", place, "--json"];
    const child = spawn(process.execPath, [mainFile(), ...args, ...(nodeAdapter ? ["--adapter", nodeAdapter] : [])], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.children.add(child);
    let isGone = false;
    let said = "";
    const ended = new Promise<void>((resolve) =>
      child.once("close", () => {
        isGone = true;
        this.children.delete(child);
        resolve();
      }),
    );
    child.stdout.resume();
    const id = await new Promise<string>((resolve, reject) => {
      child.stderr.setEncoding("utf8").on("data", (text: string) => {
        said += text;
        const found = /^peer id (\S+)$/m.exec(said);
        if (found) resolve(found[1]!);
        for (const line of text.split("\n")) if (line) log(`[${name}] ${line}`);
      });
      ended.then(() => reject(new JobError("PeerError", `${name} ended before it joined: ${said.trim()}`)));
    });
    return {
      ...{ name, id, place: "node" },
      pid: child.pid,
      get isGone() {
        return isGone;
      },
      call: () => Promise.reject(new JobError("PeerError", `${name}: a Node peer of its own process takes no calls`)),
      async leave() {
        child.kill("SIGINT");
        await ended;
      },
      async kill() {
        child.kill("SIGKILL");
        await ended;
      },
    } satisfies RingMember;
  }
}

/** Opens a ring of so many peers, all ready. Whatever happens, {@link PeerRing.close} ends what was started. */
export async function openRing(options: RingOptions): Promise<PeerRing> {
  const { model, peers } = options;
  const mounts = "folder" in model ? [{ path: "/model/", folder: model.folder }] : [];
  const server = await serve([{ path: "/", folder: builtFolder("harness") }, ...mounts]);
  const ring = new Ring(options, server);
  try {
    await ring.add();
    // One after the other: they share this machine's cores, and a Chrome that starts wants both.
    for (let count = 1; count < peers; count++) await ring.add();
    await ring.ready(peers);
    return ring;
  } catch (error) {
    await ring.close();
    throw error;
  }
}
