/** N peers, N times the context: what one peer holds on its GPU stays the same. `npm run memory:peers` is the long version. */
import { expect, it } from "vitest";
import { builtFolder } from "../../src/cli/paths.ts";
import { openRing } from "../../src/cli/peer-ring.ts";
import { measureMemory, memoryFor, type PeerMemory, spreadOf } from "../peer-memory.ts";

it("memory per peer is flat within 10% for n x 512 tokens over n peers, n = 1 to 3", async () => {
  const rows: PeerMemory[] = [];
  for (const peers of [1, 2, 3]) {
    const model = { folder: builtFolder("demo/models/default") };
    const ring = await openRing({ peers, link: "worker", model, memoryBytes: memoryFor(512), log: () => {} });
    try {
      rows.push(await measureMemory(ring, peers, 512));
    } finally {
      await ring.close();
    }
  }
  expect(rows.map(({ isFound }) => isFound)).toEqual([true, true, true]);
  expect(rows.map(({ promptTokens }) => promptTokens)).toEqual([449, 961, 1473]);
  for (const { ranks } of rows) for (const { kvTokens } of ranks) expect(kvTokens).toBeLessThanOrEqual(512);
  expect(spreadOf(rows), JSON.stringify(rows)).toBeLessThan(0.1);
});
