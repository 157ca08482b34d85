/** Tuning attention: what a store knows, else a measurement; either becomes the device's own choice. */
import { GpuMemoryError, OptionError, UnsupportedDeviceError } from "../errors.ts";
import { describeAdapter } from "../gpu/device.ts";
import { checkAttentionDevice, type ResolvedAttention, resolveAttention } from "./attention-options.ts";
import type { AttentionOptions } from "./attention-types.ts";
import { ATTENTION_CANDIDATES, type AttentionCandidate, type AttentionWork, unmetNeed } from "./candidates.ts";
import { deviceFacts, rememberChoice, rememberedChoice, runnable, safeChoice, shippedChoice } from "./tiles.ts";
import type { TuneOptions } from "./tune-types.ts";
import { driverKey, kernelsKey, LIBRARY_VERSION, shapeClass, storedAdapterKey } from "./tuned-key.ts";
import { parseRecord, type TunedRecord } from "./tuned-record.ts";
import { defaultStore } from "./tuned-store.ts";
import { type Measured, measureCandidates, within } from "./tuner.ts";

const WORKS: readonly AttentionWork[] = ["many-rows", "few-rows"];
const DEFAULT_BUDGET_MS = 2000;
const DEFAULT_CANDIDATES = 6;

/** What tuning found for one class of shapes; undefined where the store knew it, it was known, or nothing was measured. */
export interface TunedShape {
  work: AttentionWork;
  shape: string;
  record?: TunedRecord;
}

/** What {@link tuneAttention} takes besides, for tests: a list with candidates that do not exist otherwise. */
export interface TuneSetup {
  candidates?: readonly AttentionCandidate[];
}

/** Tuning is done one after the other on a device: two at once would time each other. */
const turns = new WeakMap<GPUDevice, Promise<unknown>>();

async function inTurn<T>(device: GPUDevice, signal: AbortSignal | undefined, run: () => Promise<T>): Promise<T> {
  const before = turns.get(device)?.catch(() => {});
  const mine = (async () => {
    if (before) await within(before, Number.POSITIVE_INFINITY, signal ?? NEVER);
    signal?.throwIfAborted();
    return run();
  })();
  // Whoever comes next waits for the one before too, should this one be called off while it waits.
  turns.set(device, Promise.allSettled([before, mine]));
  return mine;
}

const NEVER = new AbortController().signal;

/** The class's candidates in the order in which they are tried: the safe one, the shipped one, then one of each design in turn. */
export function trialOrder(
  can: readonly AttentionCandidate[],
  safe: AttentionCandidate,
  isCpu: boolean,
  shipped = safe,
): AttentionCandidate[] {
  const designOf = ({ designs }: AttentionCandidate) => designs[0]!;
  const byDesign = new Map<string, AttentionCandidate[]>();
  for (const candidate of [safe, ...can.filter((other) => other !== safe)]) {
    const list = byDesign.get(designOf(candidate));
    if (list) list.push(candidate);
    else byDesign.set(designOf(candidate), [candidate]);
  }
  // On CPU adapters workgroup tiles have never been near: they come when all else was tried.
  const late = isCpu ? (byDesign.get("tile") ?? []).filter((candidate) => candidate !== safe) : [];
  const lists = [...byDesign].map(([, list]) => list.filter((candidate) => !late.includes(candidate)));
  const longest = Math.max(...lists.map((list) => list.length));
  const order = Array.from({ length: longest }, (_, i) => lists.flatMap((list) => list[i] ?? [])).flat();
  return [...new Set([safe, shipped, ...order, ...late])];
}

const winnerOf = (record: TunedRecord): string => {
  const timed = record.candidates.filter(({ status }) => status === "ok" || status === "slow");
  const times = timed.flatMap(({ id, timeMs }) => (timeMs === undefined ? [] : [`${id} ${timeMs.toFixed(2)} ms`]));
  const wrong = record.candidates.filter(({ status }) => status === "wrong").map(({ id }) => id);
  const left = record.candidates.filter(({ status }) => status === "not measured").length;
  return [
    `fastest right kernel for ${record.shape} at ${record.measuredOn}: ${times.join(", ")}`,
    ...(wrong.length > 0 ? [`wrong: ${wrong.join(", ")}`] : []),
    ...(left > 0 ? [`the budget ended before ${left} more`] : []),
  ].join("; ");
};

/** One class: known already, else stored, else measured. */
async function tuneShape(
  device: GPUDevice,
  resolved: ResolvedAttention,
  work: AttentionWork,
  options: TuneOptions,
  candidates: readonly AttentionCandidate[],
): Promise<TunedShape> {
  const shape = shapeClass(resolved, work);
  const { signal, isAnew = false, onProgress } = options;
  const known = rememberedChoice(device, shape);
  if (known && known.basis !== "safe" && !isAnew) return { work, shape };
  const facts = deviceFacts(device);
  const can = runnable(candidates, facts, resolved, work).filter(
    ({ id }) => options.candidates === undefined || options.candidates.includes(id),
  );
  const safe = safeChoice(can, facts, resolved);
  // No candidate, or a shape that needs none: createAttention says it better, or has nothing to choose.
  if (!safe) return { work, shape };
  const store = options.store === undefined ? defaultStore() : options.store;
  const identity = {
    ...{ adapter: storedAdapterKey(device), driver: driverKey(device), library: LIBRARY_VERSION, shape },
    kernels: kernelsKey(candidates),
  };
  const key = [shape, identity.adapter, identity.driver, identity.library].join(" | ");
  let storeFault = "";
  const notKept = (error: unknown) => {
    storeFault = `; ${store!.name} failed: ${error instanceof Error ? error.message : error}`;
    return undefined;
  };
  if (store && !isAnew) {
    const record = parseRecord(await store.get(key).catch(notKept));
    signal?.throwIfAborted();
    const isSame =
      record && Object.entries(identity).every(([name, value]) => record[name as keyof TunedRecord] === value);
    const found = isSame ? can.find(({ id }) => id === record.id) : undefined;
    if (record && found) {
      rememberChoice(device, shape, {
        ...{ candidate: found, basis: "stored" },
        why: `${winnerOf(record)} (${record.date.slice(0, 10)}, from ${store.name})`,
      });
      return { work, shape };
    }
  }
  const shipped = shippedChoice(device, shape, can);
  const budgetMs = options.budgetMs ?? DEFAULT_BUDGET_MS;
  if (!(budgetMs > 0) || (shipped && !isAnew)) return { work, shape };
  const list = trialOrder(can, safe, facts.isCpu, shipped?.candidate).slice(
    0,
    options.maxCandidates ?? DEFAULT_CANDIDATES,
  );
  const total = list.length;
  // Masks make all candidates that know them slower alike, and would need inputs of their own.
  const bare: ResolvedAttention = {
    ...resolved,
    ...{ mask: "none", hasSegments: false, hasKvLengths: false, hasSinks: false, label: "tuner" },
  };
  let measured: Measured;
  try {
    measured = await measureCandidates({
      ...{ device, resolved: bare, work, isCpu: facts.isCpu, candidates: list, budgetMs, signal },
      onProgress: (done, message) => onProgress?.({ shape, done, total, message: `${shape}: ${message}` }),
    });
  } catch (error) {
    if (!(error instanceof GpuMemoryError)) throw error;
    const why = `safe: there was no GPU memory to measure ${shape} (${error.message})`;
    rememberChoice(device, shape, { candidate: safe, basis: "safe", why });
    return { work, shape };
  }
  const entries = measured.candidates;
  if (!measured.winner) {
    const faults = entries.map(({ id, status, reason }) => `${id} ${status} (${reason})`).join("; ");
    // A kernel that is known to be wrong is not run, whatever else there is.
    if (entries[0]!.status === "wrong")
      throw new UnsupportedDeviceError(
        `attention: expected a kernel that computes ${shape} right on ${describeAdapter(device).name}, got none: ${faults}`,
      );
    rememberChoice(device, shape, { candidate: safe, basis: "safe", why: `safe: nothing was measured: ${faults}` });
    return { work, shape };
  }
  const record: TunedRecord = {
    ...{ version: 1, ...identity, id: measured.winner.id, measuredOn: measured.measuredOn },
    ...{ date: new Date().toISOString(), candidates: entries },
  };
  await store?.set(key, record).catch(notKept);
  rememberChoice(device, shape, {
    ...{ candidate: measured.winner, basis: "measured" },
    why: `${winnerOf(record)}${storeFault && `${storeFault}, so the next program measures again`}`,
  });
  return { work, shape, record };
}

/**
 * Makes the choice for these options the device's own: for many and for few query rows, what the store knows, else the
 * fastest right candidate that a measurement within the budget finds. What is created on the device afterwards takes it.
 */
export async function tuneResolved(
  device: GPUDevice,
  resolved: ResolvedAttention,
  tune: TuneOptions,
  { candidates = ATTENTION_CANDIDATES }: TuneSetup = {},
): Promise<TunedShape[]> {
  const budgetMs = tune.budgetMs ?? DEFAULT_BUDGET_MS;
  if (!(typeof budgetMs === "number" && budgetMs >= 0))
    throw new OptionError(`tune: expected budgetMs to be a number of at least 0, got ${String(budgetMs)}`);
  const forced = candidates.find(({ id }) => id === resolved.candidate);
  for (const id of tune.candidates ?? [])
    if (!candidates.some((candidate) => candidate.id === id))
      throw new OptionError(
        `tune: expected candidates to be of ${candidates.map((candidate) => candidate.id).join(", ")}, got "${id}"`,
      );
  return inTurn(device, tune.signal, async () => {
    const startMs = performance.now();
    const found: TunedShape[] = [];
    const works = (tune.works ?? WORKS).filter((work) => !forced?.works.includes(work));
    for (const [index, work] of works.entries()) {
      const leftMs = Math.max(0, startMs + budgetMs - performance.now());
      // 0 means that nothing is to be measured; a budget that others have spent is told as such.
      const share = { ...tune, budgetMs: budgetMs && Math.max(leftMs / (works.length - index), Number.MIN_VALUE) };
      found.push(await tuneShape(device, resolved, work, share, candidates));
    }
    return found;
  });
}

/**
 * Tunes attention for these options without creating one: see `AttentionOptions.tune`. What is created on the device
 * afterwards (attention, steppers, rings, models) takes what was found.
 * @returns one entry for many and one for few query rows, with the record where something was measured
 * @throws {OptionError} for a bad option
 * @throws {UnsupportedDeviceError} where the device lacks what the options need, or computes none of the kernels right
 * @throws {DeviceLostError}
 * @throws signal.reason when aborted
 */
export async function tuneAttention(
  device: GPUDevice,
  options: AttentionOptions,
  tune: TuneOptions = {},
): Promise<TunedShape[]> {
  const where = "tuneAttention";
  const resolved = resolveAttention(where, options);
  checkAttentionDevice(where, device, resolved, "state");
  return tuneResolved(device, resolved, tune);
}

/** The option `tune` of what is being created. */
export async function applyTune(
  device: GPUDevice,
  resolved: ResolvedAttention,
  tune: AttentionOptions["tune"],
): Promise<void> {
  if (tune) await tuneResolved(device, resolved, tune === true ? {} : tune);
}

/** A candidate as {@link attentionCandidates} tells it. */
export interface CandidateInfo {
  id: string;
  works: readonly AttentionWork[];
  designs: readonly string[];
  rows: number;
  workgroupSize: number;
  /** Why the device does not run it with these options; undefined where it does. */
  unmet?: string;
}

/** All kernels that there are for these options, and why the device does not run some. @throws {OptionError} for a bad option. */
export function attentionCandidates(device: GPUDevice, options: AttentionOptions): CandidateInfo[] {
  const resolved = resolveAttention("attentionCandidates", options);
  const facts = deviceFacts(device);
  return ATTENTION_CANDIDATES.map((candidate) => {
    const { id, works, designs, rows, workgroupSize } = candidate;
    return { id, works, designs, rows, workgroupSize, unmet: unmetNeed(candidate, facts, resolved) };
  });
}
