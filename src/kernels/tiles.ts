/** Which attention kernel runs: the option that forces one, what was measured on this device, what is shipped, what is safe. */
import { OptionError, UnsupportedDeviceError } from "../errors.ts";
import { describeAdapter } from "../gpu/device.ts";
import type { KernelSource, KnobValue } from "../gpu/specialize.ts";
import type { ResolvedAttention } from "./attention-options.ts";
import {
  ATTENTION_CANDIDATES,
  type AttentionCandidate,
  type AttentionWork,
  type DeviceFacts,
  SAFE_CHOICES,
  SAFE_WORKGROUP_BYTES,
  unmetNeed,
  workgroupBytesOf,
} from "./candidates.ts";
import shippedData from "./tuned-data.json";
import { adapterKey, nearClasses, shapeClass } from "./tuned-key.ts";
import type { ShippedAdapter } from "./tuned-record.ts";

/**
 * On what a choice rests: `forced` by the option `candidate`; `measured` on this device by this program; `stored` by an
 * earlier one; `shipped` with the library for this adapter; `safe`, derived from the adapter's limits.
 */
export type ChoiceBasis = "forced" | "measured" | "stored" | "shipped" | "safe";

/** Which kernel runs a kind of work, and why. */
export interface KernelChoice {
  /** Id of the candidate. */
  id: string;
  basis: ChoiceBasis;
  /** The basis as a sentence. */
  why: string;
}

/** The kernels that an attention, stepper or ring runs. */
export interface AttentionChoice {
  /** Many query rows (prefill). */
  manyRows: KernelChoice;
  /** Few query rows (decode). */
  fewRows: KernelChoice;
}

/** A kernel, its knobs, the share of the work that one workgroup does, and why it is this one. */
export interface AttentionKernelChoice extends KernelChoice {
  source: KernelSource;
  knobs: Record<string, KnobValue>;
  /** Query rows (a token of one of the query heads that share a K/V head) per unit. */
  rows: number;
  /** Units that one workgroup does: its invocations, or 1 where a workgroup shares a tile. */
  unitsPerWorkgroup: number;
  /** Whether four invocations share the reading of keys and values. */
  quads: boolean;
  /** Whether the kernel reads query, key and value itself: see {@link AttentionCandidate.readsItself}. */
  readsItself: boolean;
}

/** A choice that was made on this device while the program ran. */
export interface RememberedChoice {
  candidate: AttentionCandidate;
  basis: ChoiceBasis;
  why: string;
}

/** Written by `ringwise tune --write`, never by hand. */
const SHIPPED = shippedData as readonly unknown[] as readonly ShippedAdapter[];

const remembered = new WeakMap<GPUDevice, Map<string, RememberedChoice>>();

/** Makes a choice the device's own for a class of shapes: everything created afterwards takes it. */
export function rememberChoice(device: GPUDevice, shape: string, choice: RememberedChoice): void {
  let choices = remembered.get(device);
  if (!choices) remembered.set(device, (choices = new Map()));
  choices.set(shape, choice);
}

/** What {@link rememberChoice} was told. */
export const rememberedChoice = (device: GPUDevice, shape: string): RememberedChoice | undefined =>
  remembered.get(device)?.get(shape);

/** What of a device decides which candidates run. */
export function deviceFacts(device: GPUDevice): DeviceFacts {
  const { isCpu, hasSubgroups, subgroupMinSize, subgroupMaxSize } = describeAdapter(device);
  const { limits } = device;
  return {
    ...{ isCpu, hasSubgroups, subgroupMinSize, subgroupMaxSize },
    workgroupBytes: limits.maxComputeWorkgroupStorageSize,
    invocations: Math.min(limits.maxComputeInvocationsPerWorkgroup, limits.maxComputeWorkgroupSizeX),
  };
}

/** A candidate with its knobs set, ready for `compileAttention`. */
export function kernelOf(candidate: AttentionCandidate, basis: ChoiceBasis, why: string): AttentionKernelChoice {
  const { id, source, knobs, rows, workgroupSize, unitsPerWorkgroup, quads, readsItself = false } = candidate;
  return {
    ...{ id, basis, why, source, rows, unitsPerWorkgroup, quads, readsItself },
    knobs: { ...knobs, WORKGROUP_SIZE: workgroupSize },
  };
}

/** Candidates of this work that the options' design allows and the device runs. */
export function runnable(
  candidates: readonly AttentionCandidate[],
  facts: DeviceFacts,
  resolved: ResolvedAttention,
  work: AttentionWork,
): AttentionCandidate[] {
  return candidates.filter(
    (candidate) =>
      candidate.works.includes(work) && allowsDesign(candidate, resolved) && !unmetNeed(candidate, facts, resolved),
  );
}

const allowsDesign = ({ designs }: AttentionCandidate, { design }: ResolvedAttention): boolean =>
  design === "auto" || designs.includes(design);

/** The safe choice among candidates that run, first of them where no line of SAFE_CHOICES is about any. */
export function safeChoice(
  can: readonly AttentionCandidate[],
  facts: DeviceFacts,
  resolved: ResolvedAttention,
): AttentionCandidate | undefined {
  const isSmall = (candidate: AttentionCandidate) => workgroupBytesOf(candidate, resolved) <= SAFE_WORKGROUP_BYTES;
  for (const { id, adapters, subgroupSize } of SAFE_CHOICES) {
    if (adapters !== "all" && (adapters === "cpu") !== facts.isCpu) continue;
    const { subgroupMinSize, subgroupMaxSize } = facts;
    if (subgroupSize && !(subgroupMinSize === subgroupSize && subgroupMaxSize === subgroupSize)) continue;
    const found = can.find((candidate) => candidate.id === id && isSmall(candidate));
    if (found) return found;
  }
  return can.find(isSmall) ?? can[0];
}

/** The candidate that the option `candidate` names, where it does this work. */
function forcedCandidate(
  facts: DeviceFacts,
  resolved: ResolvedAttention,
  work: AttentionWork,
): AttentionCandidate | undefined {
  const id = resolved.candidate;
  if (id === undefined) return undefined;
  const found = ATTENTION_CANDIDATES.find((candidate) => candidate.id === id);
  if (!found)
    throw new OptionError(
      `attention: expected candidate to be one of ${ATTENTION_CANDIDATES.map((candidate) => candidate.id).join(", ")}, got "${id}"`,
    );
  if (!found.works.includes(work)) return undefined;
  const unmet = unmetNeed(found, facts, resolved);
  if (unmet) throw new UnsupportedDeviceError(`attention: candidate "${id}" ${unmet}`);
  return found;
}

/**
 * The kernel for this device, these options, and many or few query rows. The option `candidate` comes first; the option
 * `design` leaves only candidates of that design. Among these: what was measured or recalled on this device, what is
 * shipped for this adapter, else the safe choice.
 * @throws {OptionError} for a candidate that does not exist.
 * @throws {UnsupportedDeviceError} where the device runs no candidate of the design, or not the candidate.
 */
export function chooseKernel(
  device: GPUDevice,
  resolved: ResolvedAttention,
  work: AttentionWork,
): AttentionKernelChoice {
  const facts = deviceFacts(device);
  const forced = forcedCandidate(facts, resolved, work);
  if (forced) return kernelOf(forced, "forced", `forced by candidate: "${forced.id}"`);
  const can = runnable(ATTENTION_CANDIDATES, facts, resolved, work);
  const safe = safeChoice(can, facts, resolved);
  if (!safe) throw noCandidate(facts, resolved, work);
  const shape = shapeClass(resolved, work);
  const own = rememberedChoice(device, shape);
  if (own && !unmetNeed(own.candidate, facts, resolved)) return kernelOf(own.candidate, own.basis, own.why);
  const shipped = shippedChoice(device, shape, can);
  if (shipped) return kernelOf(shipped.candidate, shipped.basis, shipped.why);
  const about = `no measurement of ${shape} on this adapter`;
  const forcedDesign = resolved.design === "auto" ? "" : `, design "${resolved.design}" asked for`;
  return kernelOf(safe, "safe", `safe for ${facts.isCpu ? "a CPU adapter" : "a GPU"}: ${about}${forcedDesign}`);
}

/** What is shipped for this adapter and class of shapes, where the device runs it. */
export function shippedChoice(
  device: GPUDevice,
  shape: string,
  can: readonly AttentionCandidate[],
): RememberedChoice | undefined {
  const adapter = adapterKey(device);
  const shipped = SHIPPED.find((entry) => entry.adapter === adapter);
  // What was measured of a near class says more than limits do.
  for (const measured of nearClasses(shape)) {
    const candidate = can.find(({ id }) => id === shipped?.choices[measured]);
    if (!shipped || !candidate) continue;
    return {
      candidate,
      basis: "shipped",
      why: `fastest for ${measured} when ${adapter} was measured (${shipped.date})`,
    };
  }
  return undefined;
}

function noCandidate(facts: DeviceFacts, resolved: ResolvedAttention, work: AttentionWork): UnsupportedDeviceError {
  const { design } = resolved;
  const { hasSubgroups, subgroupMinSize } = facts;
  if (design === "subgroup" && !(hasSubgroups && subgroupMinSize >= 4))
    return new UnsupportedDeviceError(
      `attention: expected a device with subgroups of at least 4 for design "subgroup", got ${hasSubgroups ? `subgroups of ${subgroupMinSize}` : "none"}`,
    );
  const reasons = ATTENTION_CANDIDATES.filter(
    (candidate) => candidate.works.includes(work) && allowsDesign(candidate, resolved),
  ).map((candidate) => `${candidate.id} ${unmetNeed(candidate, facts, resolved)}`);
  return new UnsupportedDeviceError(
    `attention: expected a device that runs a kernel of design "${design}" for ${work}, got one that runs none: ${reasons.join("; ")}`,
  );
}
