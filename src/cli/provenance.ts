/** Where a result comes from, as every recorded document says it. */
import { cpus } from "node:os";

/** The command as one would type it again. */
export const commandLine = (): string =>
  ["ringwise", ...process.argv.slice(2).map((word) => (/[^\w,.=/:-]/.test(word) ? `'${word}'` : word))].join(" ");

/** Processor and count, as Node tells them. */
export const machineName = (): string => `${cpus().length} x ${cpus()[0]?.model ?? "unknown processor"}`;
