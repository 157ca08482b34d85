/** One bench document as Markdown, without plots: what a run on another machine brings home beside its JSON. */
import type { BenchDocument } from "../result-types.ts";
import { sectionsOf } from "./documents.ts";
import { againstBlocks, originBlocks, ownBlocks, peakSentence } from "./section.ts";
import { targetTable } from "./tables.ts";

/** The document's tables: targets, peers side by side, our own cases. */
export function documentMarkdown(document: BenchDocument, file = "this run"): string {
  const sections = sectionsOf([{ file, document }]);
  const blocks = sections.flatMap((section) => [
    ...[`## ${section.title}`, ...originBlocks(section), peakSentence(section)],
    ...["### Targets", targetTable([section])],
    ...againstBlocks(section.against, "###"),
    ...ownBlocks(section.own, "###"),
  ]);
  return `${blocks.filter(Boolean).join("\n\n")}\n`;
}
