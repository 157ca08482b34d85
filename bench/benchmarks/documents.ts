/** The recorded results that BENCHMARKS.md is written from: every bench document of a folder, by adapter. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { BenchDocument, BenchResult } from "../result-types.ts";

/** A document and the file it lies in. */
export interface RecordedDocument {
  /** File name without folder. */
  file: string;
  document: BenchDocument;
}

/** All that was measured on one adapter in one runtime. */
export interface Section {
  /** e.g. "SwiftShader in Chrome" */
  title: string;
  /** For file names: "swiftshader-chrome". */
  slug: string;
  /** The name that the adapter gives itself. */
  adapter: string;
  runtime: BenchDocument["runtime"];
  /** True for adapters that run on the CPU. */
  isCpu: boolean;
  /** Newest first. */
  documents: RecordedDocument[];
  /** Our own rows, one per case, dtype and implementation: of runs without peers where there are such. */
  own: BenchResult[];
  /** Rows of runs with peers, ours included, of the cases that a peer was asked. */
  against: BenchResult[];
}

/** Runs that nobody named begin with their date; they are a person's own and not recorded. */
const UNNAMED = /^20\d\d-/;

function isBenchDocument(value: unknown): value is BenchDocument {
  const { results, adapter, date } = (value ?? {}) as Partial<BenchDocument>;
  if (!Array.isArray(results) || typeof adapter !== "string" || typeof date !== "string") return false;
  return results.every((result) => typeof result?.case === "string" && typeof result?.group === "string");
}

/**
 * Every bench document of the folder; JSON files of another make (the ring over links, faults, needles) are passed over.
 * @throws {SyntaxError} naming the file that is no JSON.
 */
export function readDocuments(folder: string): RecordedDocument[] {
  const files = readdirSync(folder)
    .filter((file) => file.endsWith(".json") && !UNNAMED.test(file))
    .sort();
  return files.flatMap((file) => {
    let document: unknown;
    try {
      document = JSON.parse(readFileSync(join(folder, file), "utf8"));
    } catch (error) {
      throw new SyntaxError(`readDocuments: ${file}: ${(error as Error).message}`);
    }
    return isBenchDocument(document) ? [{ file, document }] : [];
  });
}

/** Who a row belongs to. */
export const contenderOf = ({ contender = "ringwise" }: BenchResult) => contender;
const isPeers = (result: BenchResult) => contenderOf(result) !== "ringwise";
const hasPeers = ({ document }: RecordedDocument) => document.results.some(isPeers);

/** What is measured anew as a whole: a case in one element type. */
const caseKey = ({ case: name, dtype = "f32" }: BenchResult) => `${name}\n${dtype}`;

function byCase(rows: readonly BenchResult[]): Map<string, BenchResult[]> {
  const found = new Map<string, BenchResult[]>();
  for (const row of rows) found.set(caseKey(row), [...(found.get(caseKey(row)) ?? []), row]);
  return found;
}

/**
 * The rows of several documents, the newest first: each case comes from the first document that has it, so that what stands
 * side by side was measured side by side. `isFilled`: contenders that this one lacks come from older ones.
 */
function merged(lists: readonly (readonly BenchResult[])[], isFilled: boolean): BenchResult[] {
  const found = new Map<string, BenchResult[]>();
  for (const list of lists)
    for (const [key, rows] of byCase(list)) {
      const present = found.get(key) ?? [];
      const known = new Set(present.map(contenderOf));
      if (present.length === 0 || isFilled)
        found.set(key, [...present, ...rows.filter((row) => !known.has(contenderOf(row)))]);
    }
  return [...found.values()].flat();
}

/** Rows of the cases that peers were asked, too. */
const rowsWithPeers = (rows: readonly BenchResult[]): BenchResult[] =>
  [...byCase(rows).values()].filter((list) => list.some(isPeers)).flat();

/** What people call it: CPU drivers by their usual name, whatever version they are; else its own name. */
const shortName = (adapter: string): string => {
  if (/swiftshader/i.test(adapter)) return "SwiftShader";
  return /llvmpipe|lavapipe/i.test(adapter) ? "lavapipe" : adapter;
};

const RUNTIME_NAMES = { chrome: "in Chrome", node: "in Node" } as const;

/** Documents by adapter and runtime, sections in order of their titles; newer documents win over older ones. */
export function sectionsOf(recorded: readonly RecordedDocument[]): Section[] {
  const byKey = new Map<string, RecordedDocument[]>();
  for (const entry of recorded) {
    const { adapter, runtime } = entry.document;
    const key = `${shortName(adapter)} ${RUNTIME_NAMES[runtime]}`;
    byKey.set(key, [...(byKey.get(key) ?? []), entry]);
  }
  return [...byKey]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([title, entries]) => {
      const documents = entries.sort((a, b) => b.document.date.localeCompare(a.document.date));
      const { adapter, runtime } = documents[0]!.document;
      const alone = documents.filter((entry) => !hasPeers(entry));
      const together = documents.filter(hasPeers);
      const oursOf = ({ document }: RecordedDocument) => document.results.filter((row) => !isPeers(row));
      return {
        ...{ title, adapter, runtime, documents },
        slug: title
          .toLowerCase()
          .replace(/\bin\b/g, " ")
          .replace(/[^a-z0-9]+/g, "-")
          .replace(/^-|-$/g, ""),
        isCpu: /swiftshader|llvmpipe|lavapipe|basic render/i.test(adapter),
        own: merged([...alone, ...together].map(oursOf), false),
        against: merged(
          together.map(({ document }) => rowsWithPeers(document.results)),
          true,
        ),
      };
    });
}

/** Whether a row has a time and is right. */
export const isRight = (result: BenchResult): boolean =>
  (result.status ?? "ok") === "ok" && result.timeMs !== undefined;

/** The fastest correct row. */
export const fastest = (rows: readonly BenchResult[]): BenchResult | undefined =>
  rows.filter(isRight).sort((a, b) => a.timeMs!.median - b.timeMs!.median)[0];

/** Our side of a case and that of the peers, of the rows of one run. */
export interface Duel {
  case: string;
  dtype: "f32" | "f16";
  ours?: BenchResult;
  /** The fastest correct peer. */
  peer?: BenchResult;
  peers: BenchResult[];
  /** How many times faster we are than that peer, by medians and by minima. */
  timesFaster?: number;
  timesFasterAtMinimum?: number;
}

/** One duel per case and dtype, in order of first appearance. */
export function duelsOf(against: readonly BenchResult[]): Duel[] {
  return [...byCase(against).values()].map((rows) => {
    const peers = rows.filter(isPeers);
    const mine = rows.filter((row) => !isPeers(row));
    const ours = fastest(mine) ?? mine[0];
    const peer = fastest(peers);
    const duel: Duel = { case: rows[0]!.case, dtype: rows[0]!.dtype ?? "f32", ours, peer, peers };
    if (!peer || !ours || !isRight(ours)) return duel;
    return {
      ...duel,
      timesFaster: peer.timeMs!.median / ours.timeMs!.median,
      timesFasterAtMinimum: peer.timeMs!.min / ours.timeMs!.min,
    };
  });
}
