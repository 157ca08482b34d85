/** `ringwise bench --against ort,jax,tfjs`: Ringwise and its peers side by side in one browser, on the same inputs. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { InvalidArgumentError } from "commander";
import { AGAINST_DEFAULT_CASES, againstCase, againstCaseNames } from "../../bench/against/cases.ts";
import { type AgainstOptions, type Entrant, runAgainstCase } from "../../bench/against/run.ts";
import { fastestPeer } from "../../bench/against/verdict.ts";
import { compareRuns } from "../../bench/compare.ts";
import type { BenchDocument, BenchResult, Contender } from "../../bench/result-types.ts";
import type { AttentionDesign } from "../index.ts";
import { modelCaseNames, modelMounts, runModelCase } from "./bench-models.ts";
import { comparisonText } from "./bench-text.ts";
import { openContenderHost } from "./contender-host.ts";
import { UsageError } from "./errors.ts";
import { packageVersion } from "./paths.ts";
import { installPeers, peerVersions } from "./peer-packages.ts";
import { commandLine, machineName } from "./provenance.ts";
import { chromeAdapter } from "./shared-options.ts";
import { formatBytes, formatTable, type Terminal } from "./terminal.ts";

/** A peer as `--against` names it. */
export type PeerName = "ort" | "ort-gqa" | "jax" | "tfjs";

/** What a peer is called on the command line, in results, and which packages it is. */
const PEERS: Record<PeerName, { contender: Contender; packages: readonly string[]; operator?: string }> = {
  ort: { contender: "onnxruntime-web", packages: ["onnxruntime-web"] },
  // The operator that language models are exported with: a cache in place, so fewer bytes in decode.
  "ort-gqa": { contender: "onnxruntime-web", packages: ["onnxruntime-web"], operator: "GroupQueryAttention" },
  jax: { contender: "jax-js", packages: ["@jax-js/jax"] },
  tfjs: { contender: "tfjs", packages: ["@tensorflow/tfjs-core", "@tensorflow/tfjs-backend-webgpu"] },
};

/** The options of `bench` that count here. */
export interface AgainstFlags {
  against: PeerName[];
  case?: string[];
  adapter?: string;
  repeats: number;
  warmups: number;
  minSampleMs: number;
  /** Seconds that each contender may spend on one case. */
  contenderSeconds: number;
  out: string;
  name?: string;
  runtime: "chrome" | "node";
  design: AttentionDesign;
  /** An earlier result, and its file, to say what changed. */
  before?: BenchDocument;
  compare?: string;
}

/** Reads "ort,jax,tfjs"; each once, in the order given. @throws {InvalidArgumentError} for a name that is no peer's. */
export function parsePeers(text: string): PeerName[] {
  const names = text.split(",").map((name) => name.trim());
  for (const name of names)
    if (!Object.hasOwn(PEERS, name))
      throw new InvalidArgumentError(`Expected some of ${Object.keys(PEERS).join(",")}, got "${name}".`);
  return [...new Set(names)] as PeerName[];
}

/** The names to run: the table of the comparison without `--case`; a trailing `*` stands for any ending. */
export function chooseAgainstCases(asked: readonly string[] | undefined): string[] {
  if (!asked) return [...AGAINST_DEFAULT_CASES];
  const all = [...againstCaseNames(), ...modelCaseNames()];
  const chosen = asked.flatMap((name) => {
    const found = name.endsWith("*") ? all.filter((other) => other.startsWith(name.slice(0, -1))) : [name];
    if (found.length === 0 || !all.includes(found[0]!))
      throw new UsageError(`--case ${name}: no case that contenders meet in (--against ... --list shows them all)`);
    return found;
  });
  return [...new Set(chosen)];
}

const percent = (value: number | undefined, digits = 0) =>
  value === undefined ? "-" : `${(100 * value).toFixed(digits)}%`;

/** How a row stands to the others of its case: we against the fastest correct peer, a peer against us. */
function standing(result: BenchResult, results: readonly BenchResult[]): string {
  if (!result.timeMs) return "";
  if (result.contender === "ringwise") {
    const peer = fastestPeer(results, result.case);
    const { timesFaster } = result.figures ?? {};
    if (!peer || timesFaster === undefined) return "no peer is right";
    return `${timesFaster.toFixed(2)}x faster than ${peer.contender}`;
  }
  const ours = results.find((other) => other.case === result.case && other.contender === "ringwise")?.timeMs;
  return ours ? `${(result.timeMs.median / ours.median).toFixed(2)}x our time` : "";
}

/** Tokens a second, or what is said already. */
const told = (value: number | string | undefined) =>
  typeof value === "number" ? `${value.toPrecision(3)} tokens/s` : (value ?? "");

const HEADER = [
  ...["case", "contender", "status", "median ms", "min", "spread", "samples", "GPU process s", "GFLOP/s", "of peak"],
  ...["peak bytes", "of Q+K+V+O", "max error", ""],
];

function rowOf(result: BenchResult, results: readonly BenchResult[]): string[] {
  const { timeMs, peakBytes, tensorBytes, maxError } = result;
  return [
    result.case,
    result.contender ?? "",
    result.status ?? "ok",
    timeMs?.median.toFixed(2) ?? "-",
    timeMs?.min.toFixed(2) ?? "-",
    percent(timeMs?.spread, 1),
    timeMs ? String(timeMs.samples.length) : "-",
    result.cpuSeconds?.toFixed(3) ?? "-",
    result.gflops?.toFixed(2) ?? "-",
    percent(result.peakShare),
    peakBytes === undefined ? "-" : formatBytes(peakBytes),
    peakBytes === undefined || !tensorBytes ? "-" : `${(peakBytes / tensorBytes).toFixed(2)}x`,
    maxError === undefined ? "-" : maxError.toExponential(1),
    [result.figures?.tokensPerSecond, standing(result, results)].map(told).filter(Boolean).join(", "),
  ];
}

/** The comparison as text: a table, and below it a line for each row that is not "ok" or has fewer samples than asked for. */
export function againstText({ adapter, results }: BenchDocument, repeats: number): string {
  const remarks = results.flatMap(({ case: name, contender, status, reason, timeMs }) => {
    const count = timeMs?.samples.length ?? repeats;
    if (status !== "ok") return `${name}, ${contender}: ${status}. ${reason}`;
    return count < repeats ? `${name}, ${contender}: ${count} of ${repeats} samples fit into its time.` : [];
  });
  const table = formatTable([HEADER, ...results.map((result) => rowOf(result, results))]);
  return [`adapter: ${adapter}`, table, ...(remarks.length > 0 ? ["", ...remarks] : [])].join("\n");
}

/**
 * Runs the comparison and writes its result, case by case, so that a run that is broken off keeps what it has. The exit code
 * is 1 where Ringwise itself was wrong or failed in a case, or lost more than a tenth against `before`.
 * @throws {JobError} "PeerInstallError" where a peer is wanted and cannot be installed.
 */
export async function benchAgainst(flags: AgainstFlags, terminal: Terminal): Promise<void> {
  if (flags.runtime === "node")
    throw new UsageError("--against runs in Chrome, where the peers live; leave --runtime node out");
  const names = chooseAgainstCases(flags.case);
  const contenderMs = 1000 * flags.contenderSeconds;
  const peersFolder = await installPeers(terminal.progress);
  const adapter = chromeAdapter(flags.adapter);
  const host = await openContenderHost({
    ...{ adapter, peersFolder, limitMs: contenderMs, log: terminal.log },
    mounts: modelMounts(),
  });
  try {
    const pinned = peerVersions();
    const packages = flags.against.flatMap((peer) => [...PEERS[peer].packages]);
    const chrome = await host.version();
    const probe = host.contender("ringwise");
    const readProbe = host.contender("ringwise");
    const opened = await probe.open();
    const document: BenchDocument = {
      ringwise: packageVersion(),
      date: new Date().toISOString(),
      runtime: "chrome",
      host: chrome,
      machine: machineName(),
      adapter: opened.adapter,
      command: commandLine(),
      versions: {
        ...{ Chrome: chrome, ringwise: packageVersion() },
        ...Object.fromEntries(packages.map((name) => [name, pinned[name]!])),
      },
      results: [],
    };
    const folder = resolve(flags.out);
    mkdirSync(folder, { recursive: true });
    const slug = opened.adapter
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, "-")
      .slice(0, 40);
    const fileName = flags.name ?? `${document.date.slice(0, 19).replace(/:/g, "-")}-against-${slug}`;
    const file = join(folder, `${fileName}.json`);
    const entrants: Entrant[] = [
      { name: "ringwise", handle: host.contender("ringwise"), operator: flags.design },
      ...flags.against.map((peer) => {
        const { contender: name, operator } = PEERS[peer];
        return { name, handle: host.contender(name), operator };
      }),
    ];
    for (const [index, name] of names.entries()) {
      const { warmups, repeats, minSampleMs } = flags;
      const say = (message: string) => terminal.progress(`${index + 1}/${names.length} ${message}`);
      const options: AgainstOptions = { warmups, repeats, minSampleMs, contenderMs, say };
      const isModel = modelCaseNames().includes(name);
      const results = isModel
        ? await runModelCase(name, entrants, { fma: probe, read: readProbe }, options)
        : await runAgainstCase(entrants, probe, againstCase(name), options);
      document.results.push(...results);
      writeFileSync(file, `${JSON.stringify(document, null, 1)}\n`);
    }
    const comparison = flags.before && compareRuns(flags.before, document);
    const lines = [againstText(document, flags.repeats)];
    if (comparison) lines.push("", `against ${flags.compare}:`, comparisonText(comparison));
    lines.push("", `result: ${file}`);
    terminal.result(comparison ? { ...document, comparison } : document, lines.join("\n"));
    const bad = document.results.find(({ contender, status }) => contender === "ringwise" && status !== "ok");
    if (bad) terminal.log(`error: Ringwise itself, ${bad.case}: ${bad.status}. ${bad.reason}`);
    if (bad || comparison?.changes.some(({ isLoss }) => isLoss)) process.exitCode = 1;
  } finally {
    await host.close();
  }
}
