/** The options of `./start`. */
import { parseArgs } from "node:util";
import { UsageError } from "../../src/cli/errors.ts";

/** What a run was asked to do. */
export interface BundleOptions {
  isQuick: boolean;
  onlyCorrectness: boolean;
  /** Folder of the results. */
  out: string;
  adapter?: string;
  python: string;
  withTorch: boolean;
  withTuning: boolean;
  /** Nothing new is begun after so many minutes. */
  minutes: number;
  /** Bench cases by name; absent: all of the report. */
  cases?: string[];
}

/** What `--help` prints. */
export const HELP = `./start [options]   correctness of every kernel, then the bench table, on this machine's Vulkan driver

  --quick               a few cases of each, no tuning
  --only-correctness    no tuning, no table
  --adapter NAME        lavapipe, swiftshader, default, or a part of an adapter's name
  --case NAME           one bench case; may be given several times
  --minutes N           begin nothing new after N minutes (default 8)
  --out FOLDER          where the results go (default: out beside ./start)
  --python PATH         the interpreter that may have torch (default: python3)
  --no-torch            leave torch out
  --no-tune             leave the tuner out
`;

/**
 * Reads the arguments.
 * @returns undefined where help was asked for
 * @throws {UsageError} for what is no option, or no value of one
 */
export function readOptions(args: readonly string[], defaultOut: string): BundleOptions | undefined {
  let values: ReturnType<typeof parse>;
  try {
    values = parse(args);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  if (values.help) return undefined;
  const minutes = Number(values.minutes);
  if (!(minutes > 0)) throw new UsageError(`--minutes ${values.minutes}: expected a number above 0`);
  return {
    isQuick: values.quick,
    onlyCorrectness: values["only-correctness"],
    out: values.out ?? defaultOut,
    adapter: values.adapter,
    python: values.python,
    withTorch: !values["no-torch"],
    withTuning: !values["no-tune"],
    minutes,
    cases: values.case,
  };
}

const parse = (args: readonly string[]) =>
  parseArgs({
    args: [...args],
    options: {
      quick: { type: "boolean", default: false },
      "only-correctness": { type: "boolean", default: false },
      adapter: { type: "string" },
      case: { type: "string", multiple: true },
      minutes: { type: "string", default: "8" },
      out: { type: "string" },
      python: { type: "string", default: "python3" },
      "no-torch": { type: "boolean", default: false },
      "no-tune": { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  }).values;
