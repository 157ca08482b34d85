/** A ring of peers as people meet it: an invitation, a second tab that joins, a run over both, and what happens when one goes. */
import type { Page } from "puppeteer-core";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { PeerGenerateStatistics } from "../../src/index.ts";
import { type DemoHost, resultOf, setControl, startDemo, textOf, waitForState } from "./demo-page.ts";

let demo: DemoHost;

beforeAll(async () => {
  demo = await startDemo();
});

afterEach(() => {
  expect(demo.errors.splice(0)).toEqual([]);
});

afterAll(async () => {
  await demo?.close();
});

/** How long a second engine may take to load its model, on two cores that both share. */
const TIMEOUT_MS = 90_000;

const until = (page: Page, condition: string) => page.waitForFunction(condition, { timeout: TIMEOUT_MS, polling: 50 });

/** Presses a button as a person does, who first has to bring its tab to the front: the others work on, hidden. */
async function press(page: Page, selector: string): Promise<void> {
  await page.bringToFront();
  await page.click(selector);
}

/** Opens an invitation and joins by its button, under a name. */
async function joinAs(invitation: string, name: string): Promise<Page> {
  const guest = await demo.open(invitation);
  await guest.$eval("#peer-name", (field) => ((field as HTMLInputElement).value = ""));
  await guest.type("#peer-name", name);
  await press(guest, "#join-button");
  return guest;
}

/** So many peers, this one included, are part of the ring. */
const ranks = (page: Page, count: number) =>
  until(page, `ringwiseDemo.peers.filter((peer) => peer.rank !== undefined).length === ${count}`);

/** Starts the form's run and waits until the ring has read something. */
async function startRun(page: Page): Promise<void> {
  await press(page, "#run");
  await waitForState(page, "prefill");
  await until(page, "ringwiseDemo.progress?.doneTokens > 0");
}

describe("a ring of two tabs", () => {
  let leader: Page;
  let guest: Page;
  let invitation: string;

  beforeAll(async () => {
    leader = await demo.open("length=1024");
    await press(leader, "#add-peer");
    await until(leader, "document.getElementById('invite-link').value !== ''");
    invitation = await leader.$eval("#invite-link", (field) => (field as HTMLInputElement).value);
    guest = await joinAs(invitation, "Anna’s laptop");
    await ranks(leader, 2);
  });

  afterAll(async () => {
    if (!leader?.isClosed()) await leader?.close();
  });

  test("is entered by a link with a code to scan, which says what peers see and how far it reaches", async () => {
    expect(invitation).toMatch(/^http:\/\/localhost:\d+\/#join=[\w-]{22}\.[\w-]{4}$/);
    // Dark squares enough for a code of this length, on one path.
    expect(await leader.$eval("#qr path", (path) => path.getAttribute("d")!.length)).toBeGreaterThan(1000);
    const text = await textOf(leader, "#invite");
    expect(text).toContain(
      "Peers see the text and the activations computed from it, and are trusted to compute honestly",
    );
    expect(text).toContain("ringwise demo --lan");
    expect(await textOf(guest, "#join-heading")).toMatch(/^In the ring of /);
    expect(await textOf(leader, "#peer-list")).toContain("Anna’s laptop");
    expect(await textOf(leader, "#log-lines")).toContain("Anna’s laptop");
    expect(await leader.$$eval(".ring-node", (nodes) => nodes.length)).toBe(2);
  });

  test("answers over both, with figures of each, and both see the answer", async () => {
    await press(leader, "#run");
    const result = await resultOf(leader);
    expect(result).toMatchObject({ state: "done", found: true });
    const { ring } = result.statistics as PeerGenerateStatistics;
    expect(ring).toMatchObject({ worldSize: 2, layout: "zigzag", wireDtype: "f32", recoveredTokens: 0 });
    expect(ring.ranks.map((rank) => rank.linkKind)).toEqual(["tab", "tab"]);
    expect(ring.ranks[1]!.name).toBe("Anna’s laptop");
    for (const rank of ring.ranks) {
      expect(rank.kvTokens).toBeGreaterThan(256);
      expect(rank.receivedBytes).toBeGreaterThan(10_000);
    }
    await until(guest, "ringwiseDemo.state === 'done'");
    await guest.waitForFunction((text) => document.getElementById("answer")?.textContent === text, {}, result.answer);
    expect(await textOf(leader, "#overlap")).toContain("K/V blocks travelled");
    await press(leader, ".rank-details summary");
    expect(await textOf(leader, "#rank-table")).toContain("Anna’s laptop");
    // The clocks of two machines are made one: nobody's steps lie hours away.
    expect(await leader.$eval("#timeline", (canvas) => (canvas as HTMLCanvasElement).height)).toBeGreaterThan(40);
  });

  test("goes on when the other tab is closed mid-run: the answer is right, and the page says what happened", async () => {
    await setControl(leader, "length", "8192");
    await startRun(leader);
    await guest.close();
    const result = await resultOf(leader);
    expect(result).toMatchObject({ state: "done", found: true });
    const { ring } = result.statistics as PeerGenerateStatistics;
    expect(ring.recoveredTokens).toBeGreaterThan(0);
    expect(ring.recoveryMs.length).toBeGreaterThan(0);
    const events = await leader.evaluate(() => window.ringwiseDemo.peerEvents.map(({ event }) => event));
    expect(events).toContainEqual(expect.objectContaining({ type: "left", name: "Anna’s laptop" }));
    await until(leader, "document.querySelector('.peer[data-state=gone]') !== null");
    const log = await textOf(leader, "#log-lines");
    expect(log).toMatch(/Anna’s laptop has left.*: [\d,]+ tokens are computed again by the one that is left\./);
    expect(log).toMatch(/[\d,]+ tokens were computed again in [\d.]+ s/);
    expect(await leader.$$eval(".ring-node[data-seat=gone]", (nodes) => nodes.length)).toBe(1);
  });

  test("is handed on when the leader's tab closes mid-run: the guest leads, may stop, and has the whole answer", async () => {
    const heir = await joinAs(invitation, "Heir");
    await ranks(leader, 2);
    await setControl(leader, "seed", "3");
    await startRun(leader);
    await until(heir, "ringwiseDemo.state === 'prefill'");
    expect(await heir.$eval("#stop", (button) => (button as HTMLButtonElement).disabled)).toBe(true);
    const expected = /“(.+)”/.exec(await textOf(leader, "#verdict"))![1]!;
    await leader.close();
    await until(heir, "ringwiseDemo.role === 'leader'");
    // It may have ended already; while it goes on it can be stopped.
    const canStop = await heir.evaluate(
      () => window.ringwiseDemo.state === "done" || !(document.getElementById("stop") as HTMLButtonElement).disabled,
    );
    expect(canStop).toBe(true);
    await until(heir, "ringwiseDemo.state === 'done'");
    expect(await heir.evaluate(() => window.ringwiseDemo.answer)).toContain(expected);
    expect(await textOf(heir, "#log-lines")).toMatch(/leads now|leads it now/);
    await heir.close();
  });
});

describe("who gets in", () => {
  test("is the leader's choice: asked, let in, removed again; the one removed is told", async () => {
    const leader = await demo.open("");
    const invitation = await leader.evaluate(() => window.ringwiseDemo.invite());
    await press(leader, "#admit-all");
    const guest = await joinAs(invitation, "Stranger");
    await leader.waitForSelector("[data-admit]", { timeout: TIMEOUT_MS });
    expect(await textOf(leader, "#askers")).toContain("Stranger asks to come in");
    expect(await leader.evaluate(() => window.ringwiseDemo.peers.some(({ rank }) => rank === 1))).toBe(false);
    await press(leader, "[data-admit]");
    await ranks(leader, 2);
    await press(leader, ".peer:not([data-state=gone]) [data-remove]:not([hidden])");
    await until(guest, "document.getElementById('join-heading').textContent === 'Out of the ring'");
    expect(await textOf(guest, "#error")).toMatch(/removed/i);
    await until(leader, "document.querySelector('.peer[data-state=gone]') !== null");
    await guest.close();
    await leader.close();
  });

  test("needs the whole link: a damaged one is refused in plain words", async () => {
    const page = await demo.open("#join=AAAAAAAAAAAAAAAAAAAAAA.zzzz");
    await press(page, "#join-button");
    await page.waitForSelector("#error:not([hidden])");
    expect(await textOf(page, "#error")).toContain("The invitation is damaged");
    expect(await textOf(page, "#join-button")).toBe("Join again");
    await page.close();
  });
});

describe("the page of a ring", () => {
  test("names its controls, fits a phone, and is left alone again", async () => {
    const page = await demo.open("invite=1");
    await until(page, "document.getElementById('invite-link').value !== ''");
    await page.setViewport({ width: 360, height: 740, isMobile: true, hasTouch: true });
    for (const scheme of ["light", "dark"]) {
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBe(0);
    }
    const nameless = await page.$$eval("#peers-card input, #peers-card button, #ring-of-peers select", (controls) =>
      controls
        .filter((control) => (control as HTMLElement).offsetParent !== null)
        .filter((control) => {
          const labels = [...((control as HTMLInputElement).labels ?? [])].map((label) => label.textContent?.trim());
          return !(labels.some(Boolean) || control.getAttribute("aria-label") || control.textContent?.trim());
        })
        .map((control) => control.outerHTML),
    );
    expect(nameless).toEqual([]);
    expect(await page.$eval("#model-group", (group) => (group as HTMLFieldSetElement).disabled)).toBe(true);
    await page.evaluate(() => window.ringwiseDemo.leave());
    await until(page, "!document.getElementById('model-group').disabled");
    expect(await page.evaluate(() => window.ringwiseDemo.role)).toBe("alone");
    expect(await textOf(page, "#add-peer")).toBe("Add a peer");
    await page.close();
  });
});
