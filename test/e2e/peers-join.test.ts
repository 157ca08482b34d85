/** `ringwise peer --join LINK`: a machine joins a ring, in Node and in headless Chrome, works along, and says goodbye. */
import { existsSync } from "node:fs";
import { afterAll, describe, expect, it } from "vitest";
import type { PeerReport } from "../../src/cli/peer-job.ts";
import { openRing, type PeerRing } from "../../src/cli/peer-ring.ts";
import { goldenIds, storiesFolder } from "../faults/tasks.ts";
import { runCli, startCli } from "./cli-run.ts";

const isThere = existsSync(`${storiesFolder}/golden.json`);
if (!isThere) console.warn(`SKIPPED: ${storiesFolder} is absent, so "ringwise peer" is not tested.`);

describe.skipIf(!isThere)("ringwise peer", () => {
  let ring: PeerRing | undefined;
  afterAll(() => ring?.close());

  it.each([
    { runtime: "node", flags: ["--runtime", "node"] },
    { runtime: "chrome", flags: ["--headless", "--model", storiesFolder] },
  ])("in $runtime: joins, computes, and leaves with figures at Ctrl-C", async ({ runtime, flags }) => {
    const ids = goldenIds();
    ring ??= await openRing({ peers: 1, link: "node", model: { folder: storiesFolder }, log: () => {} });
    // In Node without --model: the weights come from the leader.
    const { child, outcome } = startCli([
      ...["peer", "--join", ring.invitation!, "--name", "Visitor", "--json"],
      ...flags,
    ]);
    try {
      const isReady = await Promise.race([ring.ready(2).then(() => true), outcome.then(() => false)]);
      if (!isReady) throw new Error((await outcome).stderr);
      const result = await ring.generate({ prompt: ids.slice(0, 61), maxNewTokens: 20 });
      expect(result.tokenIds).toEqual(ids.slice(61, 81));
      expect(result.ring.ranks.map(({ name }) => name)).toEqual(["tab 1", "Visitor"]);
    } finally {
      child.kill("SIGINT");
    }
    const { code, stdout, stderr } = await outcome;
    expect(code).toBe(0);
    const visit = JSON.parse(stdout);
    expect(visit).toMatchObject({ runtime, reason: "SIGINT" });
    expect(visit.adapter).not.toBe("");
    expect(visit.epochs).toBeGreaterThan(0);
    expect(stderr).toMatch(/joining the ring[\s\S]*left the ring/);
    // The leader heard the goodbye: no need to wait for silence.
    const { peers } = await ring.members[0]!.call<PeerReport>({ call: "report" });
    expect(peers.filter(({ isSelf, state }) => !isSelf && state !== "gone")).toEqual([]);
  });

  it("ends with 1 and the reason when the leader sends it away", async () => {
    ring ??= await openRing({ peers: 1, link: "node", model: { folder: storiesFolder }, log: () => {} });
    const { outcome } = startCli([
      "peer",
      "--join",
      ring.invitation!,
      "--name",
      "Guest",
      "--runtime",
      "node",
      "--json",
    ]);
    await Promise.race([ring.ready(2), outcome]);
    const leader = ring.members[0]!;
    const { peers } = await leader.call<PeerReport>({ call: "report" });
    const guest = peers.find(({ name, state }) => name === "Guest" && state !== "gone")!;
    await leader.call({ call: "remove", peerId: guest.id });
    const { code, stdout } = await outcome;
    expect(code).toBe(1);
    expect(JSON.parse(stdout).error.name).toBe("PeerError");
    expect(JSON.parse(stdout).error.message).toMatch(/out of the ring: .*sent it away/);
  });

  it("says what is wrong with a link", async () => {
    const cut = await runCli(["peer", "--join", "http://localhost:1/", "--json"]);
    expect(cut.code).toBe(2);
    expect(JSON.parse(cut.stdout).error.message).toMatch(/expected the whole link/);
    const damaged = await runCli([
      "peer",
      "--join",
      "http://localhost:1/#join=AAAA.BBBB",
      "--runtime",
      "node",
      "--json",
    ]);
    expect(damaged.code).toBe(1);
    expect(JSON.parse(damaged.stdout).error).toMatchObject({ name: "RoomError" });
    expect(damaged.stderr).toMatch(/invitation is damaged/);
  });
});
