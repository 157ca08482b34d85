/**
 * `npm run test:golden:peers`: the trained model of ../shared gives its published 200 tokens with 2, 3 and 5 peers over
 * workers, tabs, separate browsers and tab + Node, in every layout, f32 on the wire. Prints a table, writes
 * bench/results/golden-peers.json after every cell, ends with 1 where one differs.
 *
 *     [--peers 2,3,5] [--links worker,tab,browser,webrtc,node] [--layouts contiguous,zigzag,striped] [--from prefill,decode]
 *     [--tokens 200] [--resume]
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { openRing, type RingLink } from "../src/cli/peer-ring.ts";
import { formatTable } from "../src/cli/terminal.ts";
import type { RingLayout } from "../src/index.ts";
import { goldenIds, storiesFolder } from "../test/faults/tasks.ts";

const { values } = parseArgs({
  options: {
    peers: { type: "string", default: "2,3,5" },
    links: { type: "string", default: "worker,tab,browser,node" },
    layouts: { type: "string", default: "contiguous,zigzag,striped" },
    from: { type: "string", default: "prefill,decode" },
    tokens: { type: "string", default: "200" },
    resume: { type: "boolean", default: false },
    verbose: { type: "boolean", default: false },
  },
});
const ids = goldenIds();
const tokens = Math.min(Number(values.tokens), ids.length - 1);
const file = join(fileURLToPath(new URL("..", import.meta.url)), "bench", "results", "golden-peers.json");

interface Cell {
  link: RingLink;
  peers: number;
  layout: RingLayout;
  /** "decode": from BOS alone; "prefill": 150 golden ids are the prompt. */
  from: "decode" | "prefill";
  tokens: number;
  isRight: boolean;
  decodeTokensPerSecond: number;
  seconds: number;
  error?: string;
}
const nameOf = ({ link, peers, layout, from }: Pick<Cell, "link" | "peers" | "layout" | "from">) =>
  `${link} ${peers} ${layout} ${from}`;

const before: Cell[] = values.resume && existsSync(file) ? JSON.parse(readFileSync(file, "utf8")).cells : [];
const cells: Cell[] = before.filter(({ isRight }) => isRight);
const done = new Set(cells.map(nameOf));
mkdirSync(dirname(file), { recursive: true });

for (const link of values.links.split(",") as RingLink[])
  for (const peers of values.peers.split(",").map(Number)) {
    const open = (values.layouts.split(",") as RingLayout[]).flatMap((layout) =>
      (values.from.split(",") as Cell["from"][])
        .map((from) => ({ link, peers, layout, from }))
        .filter((cell) => !done.has(nameOf(cell))),
    );
    if (open.length === 0) continue;
    // One ring for all layouts: opening it takes longer than the runs.
    const log = (line: string) => values.verbose && console.error(`  ${line}`);
    const ring = await openRing({ peers, link, model: { folder: storiesFolder }, log });
    try {
      for (const cell of open) {
        const startMs = performance.now();
        const promptTokens = cell.from === "decode" ? 1 : 150;
        const expected = ids.slice(promptTokens, Math.min(promptTokens + tokens, ids.length));
        let outcome: Pick<Cell, "isRight" | "decodeTokensPerSecond" | "error">;
        try {
          const result = await ring.generate({
            ...{ prompt: ids.slice(0, promptTokens), maxNewTokens: expected.length, layout: cell.layout },
            wireDtype: "f32",
          });
          const isRight = JSON.stringify(result.tokenIds) === JSON.stringify(expected);
          const error = isRight ? undefined : `got ${result.tokenIds.join()}`;
          outcome = { isRight, decodeTokensPerSecond: result.decodeTokensPerSecond, error };
        } catch (error) {
          outcome = { isRight: false, decodeTokensPerSecond: 0, error: String(error) };
        }
        const seconds = (performance.now() - startMs) / 1000;
        cells.push({ ...cell, tokens: expected.length, ...outcome, seconds });
        console.error(`${nameOf(cell)}: ${outcome.isRight ? "ok" : `WRONG ${outcome.error}`}, ${seconds.toFixed(1)} s`);
        writeFileSync(file, `${JSON.stringify({ date: new Date().toISOString(), cells }, null, 1)}\n`);
      }
    } finally {
      await ring.close();
    }
  }

console.log(
  formatTable([
    ["link", "peers", "layout", "from", "tokens", "tokens/s", "seconds", "golden"],
    ...cells.map(({ link, peers, layout, from, tokens, decodeTokensPerSecond, seconds, isRight }) => [
      ...[link, String(peers), layout, from, String(tokens)],
      ...[decodeTokensPerSecond.toFixed(1), seconds.toFixed(1), isRight ? "equal" : "DIFFERS"],
    ]),
  ]),
);
const wrong = cells.filter(({ isRight }) => !isRight);
console.log(`${cells.length} rings, ${wrong.length} wrong`);
process.exit(wrong.length > 0 || cells.length === 0 ? 1 : 0);
