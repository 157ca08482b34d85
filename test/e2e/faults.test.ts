/**
 * A dozen faults, every kind once, on a ring of three Chromes and on one of five workers: the answer is the published one
 * each time, nothing is left behind. `npm run test:faults` does hundreds. How fast a ring recovers goes into that report: here
 * the machine is slow and shared.
 */
import { existsSync } from "node:fs";
import { afterAll, describe, expect, it } from "vitest";
import { openRing, type PeerRing } from "../../src/cli/peer-ring.ts";
import { FAULT_KINDS, type Fault, type FaultKind } from "../faults/plan.ts";
import { hasProcessTable } from "../faults/processes.ts";
import { refill, runFault, Watch } from "../faults/run-fault.ts";
import { goldenTask, storiesFolder } from "../faults/tasks.ts";

const isPossible = hasProcessTable && existsSync(`${storiesFolder}/golden.json`);
if (!isPossible) console.warn(`SKIPPED: faults need Linux's /proc and ${storiesFolder}`);

/** What a worker can do to itself needs no Chrome of its own. (Its port never closes while it lives, so it has no cut links.) */
const IN_WORKERS: readonly FaultKind[] = ["deviceDestroyed", "corrupt", "truncate", "repeat", "reorder"];

/** The leader and others in turn, prefill and decode in turn. */
const faultsOf = (kinds: readonly FaultKind[], ranks: 3 | 5): Fault[] =>
  kinds.map((kind, index) => ({
    ...{ number: index + 1, kind, ranks, victim: (index * 2) % ranks, phase: index % 2 ? "prefill" : "decode" },
    ...{ moment: 0.2 + 0.1 * index, delayMs: 7 * index },
  }));

describe.skipIf(!isPossible).each([
  {
    link: "browser",
    faults: faultsOf(
      FAULT_KINDS.filter((kind) => !IN_WORKERS.includes(kind)),
      3,
    ),
  },
  { link: "worker", faults: faultsOf(IN_WORKERS, 5) },
] as const)("faults, $link", ({ link, faults }) => {
  const watch = new Watch();
  let ring: PeerRing | undefined;
  afterAll(() => ring?.close());

  it.each(faults)("$kind at rank $victim of $ranks, in $phase", async (fault) => {
    ring ??= await openRing({
      ...{ peers: fault.ranks, link, model: { folder: storiesFolder }, isTest: true },
      ...{ onEvent: watch.onEvent, log: () => {} },
    });
    await refill(ring, fault.ranks);
    const outcome = await runFault(ring, watch, fault, goldenTask(fault.phase));
    if (outcome.failures.length > 0) {
      await ring.close();
      ring = undefined;
    }
    expect(outcome.failures, outcome.story.join("\n")).toEqual([]);
  });
});
