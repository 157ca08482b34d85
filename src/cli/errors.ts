/** How a command ends: what is wrong usage (exit code 2) and what failed (exit code 1). */

/** The command was used wrongly; the message says how. Exit code 2. */
export class UsageError extends Error {
  override name = "UsageError";
}

/** What went wrong inside the page or in a run, with the name it had there. Exit code 1. */
export class JobError extends Error {
  constructor(name: string, message: string) {
    super(message);
    this.name = name;
  }
}
