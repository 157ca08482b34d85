/** Does one fault to a ring that generates, and looks whether the ring minds. */

import type { PeerReport, SelfFault } from "../../src/cli/peer-job.ts";
import type { PeerRing, RingMember } from "../../src/cli/peer-ring.ts";
import type { PeerEvent, Prompt } from "../../src/index.ts";
import type { Fault } from "./plan.ts";
import { familyOf, isRunning, signalAll } from "./processes.ts";

/** What a ring is asked, and what must come out. */
export interface FaultTask {
  prompt: Prompt;
  expected: readonly number[];
  prefillChunkSize?: number;
}

/** How it went. */
export interface FaultOutcome extends Fault {
  /** What is wrong; empty where all is well. */
  failures: string[];
  /** "left", "recovered" and such, with the time since the fault. */
  story: string[];
  /** From noticing the loss until the ring went on, as the leader tells it. */
  recoveries: { tokens: number; milliseconds: number }[];
  /** From the fault until the first epoch after it; undefined where the ring had none. */
  detectionMs?: number;
  seconds: number;
}

/** An event as one member saw it. */
export interface SeenEvent {
  timeMs: number;
  member: RingMember;
  event: PeerEvent;
}

/** Collects the events of a ring's members. */
export class Watch {
  readonly seen: SeenEvent[] = [];
  private readonly waiting = new Set<{ isIt: (seen: SeenEvent) => boolean; resolve: () => void }>();

  readonly onEvent = (member: RingMember, event: PeerEvent): void => {
    const seen = { timeMs: performance.now(), member, event };
    if (event.type !== "load" && event.type !== "peers") this.seen.push(seen);
    for (const entry of this.waiting)
      if (entry.isIt(seen)) {
        this.waiting.delete(entry);
        entry.resolve();
      }
  };

  /** Resolves with the next event that is it. */
  next(isIt: (seen: SeenEvent) => boolean): Promise<void> {
    return new Promise((resolve) => this.waiting.add({ isIt, resolve }));
  }

  clear(): void {
    this.seen.length = 0;
  }
}

/** A fault that takes the peer away for good. */
const isLasting = ({ kind }: Fault): boolean => ["tabClosed", "pageCrashed", "browserKilled"].includes(kind);

const LIMIT_MS = 180_000;

/** Bytes on the GPU of each peer after its first run. */
const settledBytes = new WeakMap<RingMember, number>();

const delay = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

/** Waits until it holds, looking again and again. @throws {Error} after the limit. */
async function until(what: string, holds: () => Promise<boolean> | boolean, limitMs = LIMIT_MS): Promise<void> {
  const endMs = performance.now() + limitMs;
  while (!(await holds())) {
    if (performance.now() > endMs) throw new Error(`${what}: not within ${limitMs / 1000} s`);
    await delay(50);
  }
}

async function stopFor(pid: number, milliseconds: number): Promise<void> {
  const family = familyOf(pid);
  signalAll(family, "SIGSTOP");
  try {
    await delay(milliseconds);
  } finally {
    signalAll(family, "SIGCONT");
  }
}

const SELF_FAULTS: Partial<Record<Fault["kind"], SelfFault>> = {
  deviceDestroyed: { kind: "device" },
  linkSilent: { kind: "silence", milliseconds: 3500 },
  linkCut: { kind: "frames", how: "cut", count: 1 },
  slow: { kind: "slow", factor: 20, milliseconds: 3000 },
  corrupt: { kind: "frames", how: "corrupt", count: 3 },
  truncate: { kind: "frames", how: "truncate", count: 3 },
  repeat: { kind: "frames", how: "repeat", count: 10 },
  reorder: { kind: "frames", how: "reorder", count: 10 },
};

/** Does it. Resolves when the fault itself is over (a stopped browser goes on). */
async function strike(fault: Fault, victim: RingMember): Promise<void> {
  switch (fault.kind) {
    case "tabClosed":
      return victim.page!.page.close();
    case "pageCrashed":
      return void victim.page!.page.goto("chrome://crash").catch(() => {});
    case "browserKilled":
      return signalAll(familyOf(victim.pid!), "SIGKILL");
    case "stopped3s":
      return stopFor(victim.pid!, 3000);
    case "stopped8s":
      return stopFor(victim.pid!, 8000);
    default:
      await victim.call({ call: "fault", fault: SELF_FAULTS[fault.kind]! });
  }
}

/** Living members' reports; a Node peer gives none. */
async function reportsOf(members: readonly RingMember[]): Promise<Map<RingMember, PeerReport>> {
  const alive = members.filter((member) => !member.isGone && member.place !== "node");
  return new Map(
    await Promise.all(
      alive.map(async (member) => [member, await member.call<PeerReport>({ call: "report" })] as const),
    ),
  );
}

const sameIds = (a: readonly number[], b: readonly number[]) =>
  a.length === b.length && a.every((id, index) => id === b[index]);

/** Brings the ring to its size again: late ones come back by themselves, for those who are gone a new peer joins. */
export async function refill(ring: PeerRing, ranks: number): Promise<void> {
  while (ring.members.filter(({ isGone }) => !isGone).length < ranks) await ring.add();
  await ring.ready(ranks);
}

/** The member whose rank it is, by the last epoch that the leader told of. */
async function memberOfRank(ring: PeerRing, rank: number): Promise<RingMember> {
  const leader = await ring.leader();
  const { peers } = await leader.call<PeerReport>({ call: "report" });
  const status = peers.find((peer) => peer.rank === rank);
  const alive = ring.members.filter(({ isGone }) => !isGone);
  // Before the first run there are no ranks: the leader is the first, the others follow as they came.
  const member = status
    ? alive.find(({ id }) => id === status.id)
    : [leader, ...alive.filter((one) => one !== leader)][rank];
  if (!member) throw new Error(`memberOfRank: expected a living member of rank ${rank}`);
  return member;
}

/**
 * Generates with the ring, does the fault on the way, waits for the end at all survivors, and checks: the tokens, the
 * memory, the peers, the processes.
 */
export async function runFault(ring: PeerRing, watch: Watch, fault: Fault, task: FaultTask): Promise<FaultOutcome> {
  const startMs = performance.now();
  const failures: string[] = [];
  watch.clear();
  for (const member of ring.members) if (!member.isGone) await member.call({ call: "reset" });
  const before = await reportsOf(ring.members);
  const leader = await ring.leader();
  const victim = await memberOfRank(ring, fault.victim);
  const family = victim.pid === undefined ? [] : familyOf(victim.pid);

  const trigger = watch.next(({ member, event }) => {
    if (member !== leader) return false;
    if (fault.phase === "prefill")
      return event.type === "prefill" && event.doneTokens >= fault.moment * event.totalTokens;
    return event.type === "piece" && heardBy(watch, leader) >= fault.moment * (task.expected.length - 2);
  });
  const run = leader
    .call({
      call: "generate",
      model: "faults",
      job: { prompt: task.prompt, maxNewTokens: task.expected.length, prefillChunkSize: task.prefillChunkSize },
    })
    .then(
      () => undefined,
      (error: Error) => error,
    );
  const early = await Promise.race([trigger, run, delay(LIMIT_MS)]);
  if (early instanceof Error) failures.push(`the run failed before the fault: ${early.message}`);
  await delay(fault.delayMs);
  const faultMs = performance.now();
  try {
    await strike(fault, victim);
    const survivors = ring.members.filter((member) => !member.isGone && !(isLasting(fault) && member === victim));
    await until("the answer's end at all survivors", async () => {
      const reports = await reportsOf(survivors);
      return [...reports.values()].every(({ heard }) => heard.end !== undefined);
    });
    if (!(isLasting(fault) && victim === leader)) {
      const error = await run;
      if (error) failures.push(`generate: ${error.name}: ${error.message}`);
    }
    const reports = await reportsOf(survivors);
    for (const [member, { heard }] of reports)
      if (!sameIds(heard.tokenIds, task.expected))
        failures.push(
          `${member.name}: expected ${task.expected.length} ids, got ${describe(heard.tokenIds, task.expected)}`,
        );
    const { faultCount = 0 } = reports.get(victim) ?? {};
    const isOnFrames = ["linkSilent", "linkCut", "corrupt", "truncate", "repeat", "reorder"].includes(fault.kind);
    if (isOnFrames && faultCount <= before.get(victim)!.faultCount) failures.push("no message was spoilt");
    if (isLasting(fault)) await bury(victim, family, failures);
    await until("the dead are gone from everyone's list", async () => {
      const count = ring.members.filter(({ isGone }) => !isGone).length;
      const reports = await reportsOf(ring.members);
      return [...reports.values()].every(({ peers }) => peers.filter(({ state }) => state !== "gone").length === count);
    });
    for (const [member, { gpuBytes }] of await reportsOf(ring.members)) {
      // Scratch memory and uniforms stay for the next run; from the first one on, nothing may come on top.
      const was = settledBytes.get(member);
      if (was === undefined) settledBytes.set(member, gpuBytes);
      else if (gpuBytes > was * 1.1 + 2 ** 20)
        failures.push(`${member.name}: ${gpuBytes} bytes on the GPU after the run, ${was} after its first one`);
    }
  } catch (error) {
    failures.push((error as Error).message);
  }
  const after = watch.seen.filter(({ timeMs }) => timeMs >= faultMs);
  const epoch = after.find(({ event }) => event.type === "epoch");
  const story = after
    .filter(({ event }) => ["left", "suspected", "epoch", "recovered", "leader", "end", "joined"].includes(event.type))
    .map(({ timeMs, member, event }) => {
      const message = "message" in event ? event.message : "reason" in event ? event.reason : "";
      return `${((timeMs - faultMs) / 1000).toFixed(2)} s ${member.name}: ${event.type} ${message}`;
    });
  return {
    ...fault,
    failures,
    story,
    recoveries: after.flatMap(({ member, event }) =>
      event.type === "recovered" && member === firstTeller(after, "recovered")
        ? [{ tokens: event.tokens, milliseconds: event.milliseconds }]
        : [],
    ),
    detectionMs: epoch && epoch.timeMs - faultMs,
    seconds: (performance.now() - startMs) / 1000,
  };
}

const heardBy = (watch: Watch, member: RingMember): number =>
  watch.seen.filter((seen) => seen.member === member && seen.event.type === "piece").length;

const firstTeller = (seen: readonly SeenEvent[], type: PeerEvent["type"]): RingMember | undefined =>
  seen.find(({ event }) => event.type === type)?.member;

function describe(got: readonly number[], expected: readonly number[]): string {
  const index = expected.findIndex((id, at) => got[at] !== id);
  return `${got.length} ids, the first wrong one at ${index < 0 ? expected.length : index} (${got[index]} for ${expected[index]})`;
}

/** What is left of one who is gone must go too: the rest of its browser, and all of its processes. */
async function bury(victim: RingMember, family: readonly number[], failures: string[]): Promise<void> {
  await victim.kill();
  if (victim.place !== "browser") return;
  await victim.browser?.close().catch(() => {});
  await until("its processes end", () => !family.some(isRunning), 15_000).catch(() =>
    failures.push(`${victim.name}: ${family.filter(isRunning).length} processes are left`),
  );
}
