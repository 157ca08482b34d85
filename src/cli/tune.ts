/** `ringwise tune`: all kernels on all classes of shapes of this adapter; a table, and the data that choosing rests on. */
import { Command } from "commander";
import { runTune, type TuneAnswer, type TuneEvent, type TuneJob, tuneShapeNames } from "../../bench/jobs/tune.ts";
import type { TunedRecord } from "../index.ts";
import { UsageError } from "./errors.ts";
import { runInPage } from "./harness.ts";
import { createNodeDevice } from "./node-device.ts";
import { number } from "./parse.ts";
import { adapterOption, chromeAdapter, jsonOption, runtimeOption } from "./shared-options.ts";
import { formatTable, openTerminal } from "./terminal.ts";
import { shippedFile, writeShipped } from "./tuned-data-file.ts";

interface TuneFlags {
  shape?: string[];
  candidate?: string[];
  list?: boolean;
  budget?: number;
  adapter?: string;
  runtime: "chrome" | "node";
  write?: boolean;
  json?: boolean;
}

const HEADER = ["candidate", "ms", "compile ms", "", ""];

function tableOf(record: TunedRecord): string {
  const rows = [...record.candidates]
    .sort((a, b) => (a.timeMs ?? Number.POSITIVE_INFINITY) - (b.timeMs ?? Number.POSITIVE_INFINITY))
    .map(({ id, status, timeMs, compileMs, reason }) => [
      id,
      timeMs?.toFixed(2) ?? "-",
      compileMs?.toFixed(0) ?? "-",
      id === record.id ? "chosen" : status === "ok" ? "" : status,
      reason ?? "",
    ]);
  return `${record.shape} (${record.measuredOn})\n${formatTable([HEADER, ...rows])}`;
}

async function tune(flags: TuneFlags): Promise<void> {
  const terminal = openTerminal(flags.json === true);
  const names = tuneShapeNames(true);
  if (flags.list) return terminal.result(names, names.join("\n"));
  for (const part of flags.shape ?? [])
    if (!names.some((name) => name.includes(part)))
      throw new UsageError(`--shape "${part}": no shape has that in its name (--list shows them all)`);
  const file = flags.write ? shippedFile() : undefined;
  const job: TuneJob = {
    shapes: flags.shape,
    candidates: flags.candidate,
    budgetMs: flags.budget && flags.budget * 1000,
  };
  const onEvent = (event: TuneEvent) => terminal.progress(event.message);
  let answer: TuneAnswer;
  if (flags.runtime === "node") {
    const device = await createNodeDevice(flags.adapter);
    answer = await runTune(device, job, onEvent);
    device.destroy();
  } else {
    const adapter = chromeAdapter(flags.adapter);
    answer = await runInPage<TuneAnswer, TuneEvent>("tune", job, { adapter, onEvent, log: terminal.log });
  }
  const lines = [`adapter: ${answer.adapter}`, ...answer.records.map(tableOf)];
  if (answer.data) lines.push(JSON.stringify(answer.data, null, 1));
  if (file) {
    if (answer.records.length === 0) throw new UsageError("--write: nothing was measured; give it a larger --budget");
    if (!answer.data)
      throw new UsageError(
        "--write: this adapter tells neither vendor nor architecture, so nobody would find the data",
      );
    writeShipped(file, answer.data);
    lines.push(`written: ${file} (built in by the next "npm run build")`);
  }
  terminal.result(answer, lines.join("\n\n"));
}

/** The `tune` command. */
export function tuneCommand(): Command {
  return new Command("tune")
    .description(
      "measure all attention kernels on this adapter: which is fastest for which shapes, and which are wrong",
    )
    .option("--shape <parts...>", 'only shapes with this in their names, e.g. "f32 d64" (default: all)')
    .option("--candidate <ids...>", "only these kernels (default: all): some take minutes to compile on some drivers")
    .option("--list", "print the names of the shapes")
    .option("--budget <seconds>", "at most so long per shape (default: as long as it takes)", number(0))
    .option("--write", "put the result into the data that the library ships (in a checkout of its sources)")
    .addOption(adapterOption())
    .addOption(runtimeOption())
    .addOption(jsonOption())
    .action(tune);
}
