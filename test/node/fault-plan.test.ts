/** The plan of the fault suite: the same for a seed, and whole. */
import { expect, it } from "vitest";
import { FAULT_KINDS, planFaults } from "../faults/plan.ts";

it("208 faults hold every kind at every rank of both rings, in prefill and in decode", () => {
  const faults = planFaults(208, 1);
  expect(faults.map(({ number }) => number)).toEqual(Array.from({ length: 208 }, (_, index) => index + 1));
  const seen = new Set(faults.map(({ kind, ranks, victim, phase }) => `${kind} ${victim}/${ranks} ${phase}`));
  for (const kind of FAULT_KINDS)
    for (const ranks of [3, 5])
      for (let victim = 0; victim < ranks; victim++)
        for (const phase of ["prefill", "decode"]) expect(seen).toContain(`${kind} ${victim}/${ranks} ${phase}`);
  for (const { moment } of faults) expect(moment >= 0 && moment < 1).toBe(true);
});

it("a seed repeats its plan, a longer one begins like a shorter one, and another seed gives another", () => {
  expect(planFaults(50, 7)).toEqual(planFaults(50, 7));
  expect(planFaults(200, 7).slice(0, 50)).toEqual(planFaults(50, 7));
  expect(planFaults(50, 8)).not.toEqual(planFaults(50, 7));
});
