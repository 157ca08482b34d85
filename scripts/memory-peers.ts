/**
 * `npm run memory:peers [-- --tokens 4096 --peers 6]`: GPU memory per peer for a context of n x 4K tokens over n peers,
 * n = 1 to 6, workers of one page. Writes bench/results/memory-peers.json; ends with 1 where what a peer takes for it (its
 * device's bytes beyond the weights) is not flat within 10%. Each peer lends K/V memory for its share and little more.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { builtFolder } from "../src/cli/paths.ts";
import { openRing, type RingLink } from "../src/cli/peer-ring.ts";
import { formatBytes } from "../src/cli/terminal.ts";
import { measureMemory, memoryFor, type PeerMemory, spreadOf } from "../test/peer-memory.ts";

const { values } = parseArgs({
  options: {
    tokens: { type: "string", default: "4096" },
    peers: { type: "string", default: "6" },
    link: { type: "string", default: "worker" },
  },
});
const file = join(fileURLToPath(new URL("..", import.meta.url)), "bench", "results", "memory-peers.json");
mkdirSync(dirname(file), { recursive: true });

const rows: PeerMemory[] = [];
for (let peers = 1; peers <= Number(values.peers); peers++) {
  const log = (line: string) => void line;
  const ring = await openRing({
    ...{ peers, link: values.link as RingLink, model: { folder: builtFolder("demo/models/default") }, log },
    memoryBytes: memoryFor(Number(values.tokens)),
  });
  try {
    const row = await measureMemory(ring, peers, Number(values.tokens));
    rows.push(row);
    const figures = row.ranks.map(({ kvTokens, runBytes }) => `${kvTokens} tokens ${formatBytes(runBytes)}`);
    console.error(`${peers} peers, ${row.promptTokens} tokens, ${row.seconds.toFixed(0)} s: ${figures.join(", ")}`);
  } finally {
    await ring.close();
  }
  const document = { date: new Date().toISOString(), tokensPerPeer: Number(values.tokens), link: values.link, rows };
  writeFileSync(file, `${JSON.stringify(document, null, 1)}\n`);
}
const spread = spreadOf(rows);
console.log(
  `bytes per peer: most / least - 1 = ${(100 * spread).toFixed(1)}%; needles found: ${rows.filter(({ isFound }) => isFound).length} of ${rows.length}`,
);
process.exit(spread <= 0.1 && rows.every(({ isFound }) => isFound) ? 0 : 1);
