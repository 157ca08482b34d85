/** `ringwise peer --join LINK`: this machine's GPU becomes a part of someone's ring, until Ctrl-C. */
import { hostname } from "node:os";
import { Command, Option } from "commander";
import { PeerError, type PeerEvent, type PeerStatus } from "../index.ts";
import { UsageError } from "./errors.ts";
import { sayLoad, throttled } from "./job-progress.ts";
import { placeOf } from "./model-place.ts";
import { integer } from "./parse.ts";
import { type HostOptions, hostInChrome, hostInNode, type PeerHost, tryNodeDevice } from "./peer-host.ts";
import { sayEvent } from "./peer-job.ts";
import { adapterOption, chromeAdapter, jsonOption } from "./shared-options.ts";
import { formatBytes, openTerminal, type Terminal } from "./terminal.ts";

interface PeerFlags {
  join: string;
  headless?: boolean;
  name?: string;
  runtime?: "chrome" | "node";
  model?: string;
  memory?: number;
  stun?: string[];
  adapter?: string;
  json?: boolean;
}

/** Alone for so long: the ring has ended. */
const ALONE_MS = 30_000;

/** What is told of this peer's time in the ring. */
interface Visit {
  adapter: string;
  heldTokens: number;
  usedBytes: number;
  epochs: number;
}

/** Watches the events: says what happens, keeps the figures, and knows when it is over. */
class Watcher {
  readonly visit: Visit = { adapter: "", heldTokens: 0, usedBytes: 0, epochs: 0 };
  /** Resolves with a sentence when there is no ring to be in any more; rejects when this peer was sent away. */
  readonly over: Promise<string>;
  private end: (reason: string) => void = () => {};
  private fail: (error: Error) => void = () => {};
  private hasMet = false;
  private alone: NodeJS.Timeout | undefined;
  private said = "";
  private readonly progress: (message: string, isLast?: boolean) => void;

  constructor(private readonly terminal: Terminal) {
    this.progress = throttled(terminal.progress);
    this.over = new Promise((resolve, reject) => {
      this.end = resolve;
      this.fail = reject;
    });
    this.over.catch(() => {});
  }

  readonly onEvent = (event: PeerEvent): void => {
    if (event.type === "load") this.progress(sayLoad(event.progress));
    else if (event.type === "peers") this.onPeers(event.peers);
    else if (event.type === "closed") this.fail(new PeerError(`this peer is out of the ring: ${event.reason}`));
    else if (event.type === "epoch") this.visit.epochs++;
    const said = sayEvent(event);
    if (said) this.terminal.log(said);
  };

  private onPeers(peers: readonly PeerStatus[]): void {
    const self = peers.find(({ isSelf }) => isSelf);
    if (!self) return;
    const { visit } = this;
    visit.adapter = self.adapterName;
    visit.heldTokens = Math.max(visit.heldTokens, self.heldTokens);
    visit.usedBytes = Math.max(visit.usedBytes, self.usedBytes);
    const others = peers.filter(({ isSelf, state }) => !isSelf && state !== "gone");
    this.hasMet ||= others.length > 0;
    if (others.length > 0) {
      clearTimeout(this.alone);
      this.alone = undefined;
    } else if (this.hasMet) this.alone ??= setTimeout(() => this.end("everyone else has left"), ALONE_MS);
    const rank = self.rank === undefined ? "" : ` as rank ${self.rank}`;
    const holding = self.heldTokens > 0 ? `, holding ${self.heldTokens} tokens (${formatBytes(self.usedBytes)})` : "";
    const line = `${self.state}${rank} with ${others.length} others${holding}`;
    if (line !== this.said) this.progress(line, self.heldTokens === 0);
    this.said = line;
  }
}

/** Opens the peer where `--runtime` says; by default in Node, where that can be, else in a headless Chrome. */
async function open(flags: PeerFlags, options: HostOptions): Promise<{ host: PeerHost; runtime: "chrome" | "node" }> {
  const wantsNode = flags.runtime === "node" || (flags.runtime === undefined && !flags.headless);
  const device = wantsNode ? await tryNodeDevice(flags.adapter) : undefined;
  if (device) return { host: await hostInNode(options, device, flags.adapter), runtime: "node" };
  if (flags.runtime === "node")
    throw new UsageError('peer --runtime node: needs the npm packages "webgpu" and "node-datachannel", and an adapter');
  return { host: await hostInChrome(options, chromeAdapter(flags.adapter)), runtime: "chrome" };
}

/** Resolves at the first Ctrl-C or SIGTERM. A second one ends the process at once. */
const interrupted = (): Promise<string> =>
  new Promise((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM"] as const)
      process.once(signal, () => {
        resolve(signal);
        process.once(signal, () => process.exit(130));
      });
  });

async function peer(flags: PeerFlags): Promise<void> {
  const terminal = openTerminal(flags.json === true);
  if (!/^https?:\/\/[^#]+#join=./.test(flags.join))
    throw new UsageError(
      `--join ${flags.join}: expected the whole link that the ring's maker sent, with what follows "#"`,
    );
  const watcher = new Watcher(terminal);
  const stop = interrupted();
  const startMs = performance.now();
  terminal.log("joining the ring");
  const { host, runtime } = await open(flags, {
    invitation: flags.join,
    name: flags.name ?? hostname(),
    place: flags.model === undefined ? undefined : placeOf(flags.model),
    memoryBytes: flags.memory === undefined ? undefined : flags.memory * 2 ** 20,
    iceServers: flags.stun?.map((urls) => ({ urls })),
    headless: flags.headless === true || flags.runtime !== "chrome",
    onEvent: watcher.onEvent,
    onRoom: terminal.progress,
    log: terminal.log,
  });
  terminal.log(`peer id ${host.id}`);
  let reason: string;
  try {
    reason = await Promise.race([stop, watcher.over, host.ended]);
  } finally {
    await host.leave().catch(() => {});
  }
  const seconds = (performance.now() - startMs) / 1000;
  const { heldTokens, usedBytes } = watcher.visit;
  terminal.log("left the ring");
  terminal.result(
    { id: host.id, runtime, ...watcher.visit, seconds, reason },
    `${seconds.toFixed(0)} s in the ring, at most ${heldTokens} tokens (${formatBytes(usedBytes)}) held: ${reason}`,
  );
}

/** The `peer` command. */
export function peerCommand(): Command {
  return new Command("peer")
    .description("join a ring: this machine's GPU holds a part of its context, until Ctrl-C")
    .requiredOption("--join <link>", "the invitation, as the ring's maker sent it")
    .option("--name <name>", "how this peer is called in the ring (default: the machine's name)")
    .option("--headless", "in a headless Chrome")
    .addOption(
      new Option(
        "--runtime <runtime>",
        "Node (npm packages webgpu and node-datachannel), or a Chrome; default: Node where it has an adapter, else headless Chrome",
      ).choices(["chrome", "node"]),
    )
    .option(
      "--model <source>",
      "where this machine has the model: folder, URL or Hugging Face id (default: from the ring)",
    )
    .option("--memory <MiB>", "GPU memory to lend, in MiB", integer(1, 1_000_000))
    .option("--stun <urls...>", "ICE servers, for peers beyond this network: stun:host:port")
    .addOption(adapterOption())
    .addOption(jsonOption())
    .action(peer);
}
