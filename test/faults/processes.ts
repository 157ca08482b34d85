/** The processes of a browser: who they are, stopping and ending them. Linux only; only those that this test started. */
import { existsSync, readdirSync, readFileSync } from "node:fs";

/** Whether faults on processes can be done here. */
export const hasProcessTable: boolean = process.platform === "linux" && existsSync("/proc/self/stat");

/** State letter, parent and group of a process; undefined where it is gone. */
function statOf(pid: number): { state: string; parent: number } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const [state = "", parent = ""] = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return { state, parent: Number(parent) };
  } catch {
    return undefined;
  }
}

/** A process that runs (one that is dead and not yet waited for does not). */
export const isRunning = (pid: number): boolean => !["Z", "X", undefined].includes(statOf(pid)?.state);

/** A process with all of its children and theirs. */
export function familyOf(pid: number): number[] {
  const parents = new Map<number, number[]>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const stat = statOf(Number(name));
    if (stat) parents.set(stat.parent, [...(parents.get(stat.parent) ?? []), Number(name)]);
  }
  const family = [pid];
  for (let i = 0; i < family.length; i++) family.push(...(parents.get(family[i]!) ?? []));
  return family;
}

/** Sends a signal to each; one that is gone already is no error. */
export function signalAll(pids: readonly number[], signal: NodeJS.Signals): void {
  for (const pid of pids)
    try {
      process.kill(pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
}
