#!/usr/bin/env node
/** `ringwise demo | generate | peer | bench | tune`: exit code 0, 1 where it failed, 2 where it was used wrongly. */
import { Command, CommanderError } from "commander";
import { benchCommand } from "./bench.ts";
import { demoCommand } from "./demo.ts";
import { UsageError } from "./errors.ts";
import { generateCommand } from "./generate.ts";
import { packageVersion } from "./paths.ts";
import { peerCommand } from "./peer.ts";
import { tuneCommand } from "./tune.ts";

const program = new Command("ringwise")
  .description("Ring Attention with Blockwise Transformers on WebGPU")
  .version(packageVersion())
  .showHelpAfterError("(--help shows the options)");
for (const command of [demoCommand(), generateCommand(), peerCommand(), benchCommand(), tuneCommand()])
  program.addCommand(command.copyInheritedSettings(program));
// Throwing, instead of commander's own exit, leaves one place that decides the exit code.
for (const command of [program, ...program.commands]) command.exitOverride();

/** Says an error on standard error (commander has said its own) and, with `--json`, as the document. */
function report(error: unknown): number {
  const isCommander = error instanceof CommanderError;
  if (isCommander && error.exitCode === 0) return 0; // --help, --version
  const isUsage = isCommander || error instanceof UsageError;
  const { name, message, stack } = error as Error;
  if (!isCommander) console.error(isUsage ? `error: ${message}` : `${name}: ${message}`);
  if (process.env.RINGWISE_DEBUG) console.error(stack);
  const document = { error: { name: isUsage ? "UsageError" : name, message } };
  if (process.argv.includes("--json")) console.log(JSON.stringify(document, null, 2));
  return isUsage ? 2 : 1;
}

let exitCode = 0;
try {
  await program.parseAsync();
  // Set by a command whose result stands, and says that something is wrong.
  exitCode = Number(process.exitCode ?? 0);
} catch (error) {
  exitCode = report(error);
}
// Dawn's threads would keep Node alive; but what is still in the pipe to the reader must get there first.
process.stdout.write("", () => process.stderr.write("", () => process.exit(exitCode)));
