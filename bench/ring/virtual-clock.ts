/**
 * Time that only passes while everyone waits: timers and `performance.now()` of this process run on a clock that jumps to the next
 * timer once all that can be done has been done. What the processor takes (encoding, copying, hashing) counts as no time, so
 * a run tells what the schedule does, the same on every machine and under any load. Real time tells the rest.
 */

interface Timer {
  atMs: number;
  order: number;
  everyMs: number | undefined;
  call: () => void;
}

/** Turns of the event loop in which nothing happened, before time passes. */
const QUIET_TURNS = 3;

/** Runs `work` on the virtual clock. One at a time; the clock is put back at its end. */
export async function withVirtualClock<T>(work: () => Promise<T>): Promise<T> {
  const real = { setImmediate: globalThis.setImmediate, setTimeout: globalThis.setTimeout };
  const timers = new Map<number, Timer>();
  let nowMs = performance.now();
  let lastId = 0;
  let pending = 0;
  let activity = 0;
  let isOver = false;

  const add = (call: (...args: unknown[]) => void, milliseconds: number, every: boolean, args: unknown[]) => {
    const id = ++lastId;
    const waitMs = Math.max(0, Number(milliseconds) || 0);
    timers.set(id, {
      atMs: nowMs + waitMs,
      order: id,
      everyMs: every ? Math.max(1, waitMs) : undefined,
      call: () => call(...args),
    });
    return id;
  };
  const remove = (id: unknown) => void timers.delete(id as number);
  const digest = crypto.subtle.digest.bind(crypto.subtle);
  const patches: [object, string, unknown][] = [
    [performance, "now", () => nowMs],
    [globalThis, "setTimeout", (call: () => void, ms = 0, ...args: unknown[]) => add(call, ms, false, args)],
    [globalThis, "setInterval", (call: () => void, ms = 0, ...args: unknown[]) => add(call, ms, true, args)],
    [globalThis, "clearTimeout", remove],
    [globalThis, "clearInterval", remove],
    [
      globalThis,
      "setImmediate",
      (call: (...args: unknown[]) => void, ...args: unknown[]) =>
        real.setImmediate(() => {
          activity++;
          call(...args);
        }),
    ],
    // Threads of their own compute hashes: time stands still meanwhile.
    [
      crypto.subtle,
      "digest",
      (...args: Parameters<SubtleCrypto["digest"]>) => {
        pending++;
        return digest(...args).finally(() => {
          pending--;
          activity++;
        });
      },
    ],
    [globalThis, "MessageChannel", TurnChannel],
  ];
  const undo = patches.map(([target, name, value]) => {
    const before = Object.getOwnPropertyDescriptor(target, name);
    Object.defineProperty(target, name, { value, configurable: true, writable: true });
    return () => (before ? Object.defineProperty(target, name, before) : Reflect.deleteProperty(target, name));
  });

  const turn = () => new Promise<void>((resolve) => real.setImmediate(resolve));
  const pass = async () => {
    while (!isOver) {
      for (let quiet = 0; quiet < QUIET_TURNS && !isOver; ) {
        const before = activity;
        await turn();
        quiet = pending > 0 || activity !== before ? 0 : quiet + 1;
      }
      let next: [number, Timer] | undefined;
      for (const entry of timers)
        if (!next || entry[1].atMs < next[1].atMs || (entry[1].atMs === next[1].atMs && entry[1].order < next[1].order))
          next = entry;
      // Nobody waits for a timer: somebody waits for the outside.
      if (!next) await new Promise((resolve) => real.setTimeout(resolve, 1));
      else {
        const [id, timer] = next;
        nowMs = Math.max(nowMs, timer.atMs);
        if (timer.everyMs === undefined) timers.delete(id);
        else timer.atMs += timer.everyMs;
        activity++;
        timer.call();
      }
    }
  };
  const passing = pass();
  try {
    return await work();
  } finally {
    isOver = true;
    await passing;
    for (const put of undo) put();
  }
}

/** Two ports whose messages come in the next turn of the event loop, on the clock's account. */
class TurnChannel {
  readonly port1: TurnPort = new TurnPort();
  readonly port2: TurnPort = new TurnPort();
  constructor() {
    this.port1.other = this.port2;
    this.port2.other = this.port1;
  }
}

class TurnPort {
  other!: TurnPort;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  postMessage(data: unknown): void {
    setImmediate(() => this.other.onmessage?.({ data }));
  }
  close(): void {}
  start(): void {}
}
