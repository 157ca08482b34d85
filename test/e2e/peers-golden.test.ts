/**
 * Rings of peers give the published tokens: workers, tabs (hidden ones too), separate browsers, a tab with a Node process.
 * A covering few, not all tokens: `npm run test:golden:peers` runs everything.
 */
import { existsSync, readFileSync } from "node:fs";
import { afterEach, describe, expect, it } from "vitest";
import { openRing, type PeerRing, type RingOptions } from "../../src/cli/peer-ring.ts";
import { isRunning } from "../faults/processes.ts";
import { goldenIds, storiesFolder } from "../faults/tasks.ts";
import { runCli, startCli } from "./cli-run.ts";

const isThere = existsSync(`${storiesFolder}/golden.json`);
if (!isThere) console.warn(`SKIPPED: ${storiesFolder} is absent, so rings of peers are not tested on a trained model.`);

describe.skipIf(!isThere)("a ring of peers", () => {
  const ids = isThere ? goldenIds() : [];
  const said: string[] = [];
  let ring: PeerRing | undefined;

  const open = async (options: Pick<RingOptions, "peers" | "link"> & Partial<RingOptions>): Promise<PeerRing> => {
    said.length = 0;
    const log = (line: string) => said.push(line);
    ring = await openRing({ model: { folder: storiesFolder }, log, ...options });
    return ring;
  };
  afterEach(async () => {
    await ring?.close();
    ring = undefined;
  });

  it("of 3 workers, from the command line: the document has every figure of every rank", async () => {
    const { code, stdout, stderr } = await runCli([
      ...["generate", "--model", storiesFolder, "--prompt", "", "--max-new-tokens", "60", "--json"],
      ...["--peers", "3", "--link", "worker", "--layout", "zigzag"],
    ]);
    expect(stderr).not.toMatch(/^\w*Error/m);
    expect(code).toBe(0);
    const document = JSON.parse(stdout);
    expect(document.tokenIds).toEqual(ids.slice(1, 61));
    expect(document.text).toMatch(/^Once upon a time/);
    expect(document).toMatchObject({ link: "worker", promptTokens: 1, stopReason: "maxNewTokens" });
    expect(document.ring).toMatchObject({ worldSize: 3, layout: "zigzag", wireDtype: "f32", epochs: 1 });
    expect(document.ring.ranks.map(({ rank }: { rank: number }) => rank)).toEqual([0, 1, 2]);
    for (const rank of document.ring.ranks) {
      expect(rank.linkKind).toBe("worker");
      expect(rank.peakGpuBytes).toBeGreaterThan(0);
    }
    // The last token is given out, never read.
    const kept = document.ring.ranks.map(({ kvTokens }: { kvTokens: number }) => kvTokens);
    expect(kept.reduce((a: number, b: number) => a + b)).toBe(60);
    expect(Math.max(...kept)).toBeLessThan(60);
  });

  it("of 5 workers, prefilled around the ring", async () => {
    const ring = await open({ peers: 5, link: "worker" });
    const result = await ring.generate({ prompt: ids.slice(0, 150), maxNewTokens: 20, layout: "zigzag" });
    expect(result.tokenIds).toEqual(ids.slice(150, 170));
    expect(result.ring.ranks.every(({ kvTokens }) => kvTokens > 0)).toBe(true);
    expect(result.ring.ranks.reduce((sum, { receivedBytes }) => sum + receivedBytes, 0)).toBeGreaterThan(0);
  });

  it("of 2 tabs, the one that works along hidden and slowed down as a person's Chrome does it", async () => {
    const ring = await open({ peers: 2, link: "tab", keepsHiddenTabsFast: false });
    const [front, back] = ring.members;
    await front!.page!.page.bringToFront();
    expect(await back!.page!.page.evaluate(() => document.visibilityState)).toBe("hidden");
    const result = await ring.generate({ prompt: ids.slice(0, 101), maxNewTokens: 30, layout: "striped" });
    expect(result.tokenIds).toEqual(ids.slice(101, 131));
    expect(result.ring.ranks.map(({ linkKind }) => linkKind)).toEqual(["tab", "tab"]);
  });

  it("of 2 browsers, by WebRTC", async () => {
    const ring = await open({ peers: 2, link: "browser" });
    const result = await ring.generate({ prompt: ids.slice(0, 101), maxNewTokens: 30, layout: "contiguous" });
    expect(result.tokenIds).toEqual(ids.slice(101, 131));
    expect(result.ring.ranks.map(({ linkKind }) => linkKind)).toEqual(["webrtc", "webrtc"]);
  });

  it("of a tab and a Node process, which says goodbye and ends", async () => {
    const ring = await open({ peers: 2, link: "node" });
    const result = await ring.generate({ prompt: ids.slice(0, 101), maxNewTokens: 30 });
    expect(result.tokenIds).toEqual(ids.slice(101, 131));
    const node = ring.members[1]!;
    await node.leave();
    expect(isRunning(node.pid!)).toBe(false);
    expect(said.join("\n")).toMatch(/left the ring/);
    // The ring goes on with who is left.
    const alone = await ring.generate({ prompt: ids.slice(0, 101), maxNewTokens: 10 });
    expect(alone.tokenIds).toEqual(ids.slice(101, 111));
    expect(alone.ring.ranks).toHaveLength(1);
  });

  it("Ctrl-C ends it and all of its processes", async () => {
    const { child, outcome } = startCli([
      ...["generate", "--model", storiesFolder, "--prompt", "", "--max-new-tokens", "100000"],
      ...["--peers", "2", "--link", "node"],
    ]);
    await new Promise<void>((resolve) => child.stdout!.once("data", () => resolve()));
    const file = `/proc/${child.pid}/task/${child.pid}/children`;
    const children = existsSync(file) ? readFileSync(file, "utf8").trim().split(/\s+/).map(Number) : [];
    if (process.platform === "linux") expect(children.length).toBeGreaterThan(1);
    child.kill("SIGINT");
    expect((await outcome).code).toBe(130);
    await expect.poll(() => children.filter(isRunning), { timeout: 10_000 }).toEqual([]);
  });
});
