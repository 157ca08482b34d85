/**
 * Every attention kernel that can be chosen, as data: its file, its knobs, what it needs. A new kernel, or new sizes of an
 * old one, is one more entry here; the default choice (tiles.ts) and the tuner (tuner.ts) both choose from this list.
 */
import type { KernelSource, KnobValue } from "../gpu/specialize.ts";
import type { ResolvedAttention } from "./attention-options.ts";
import { ATTENTION, ATTENTION_DECODE, ATTENTION_FEW, ATTENTION_STATIONARY, ATTENTION_TILE } from "./sources.ts";

/** Many query rows per K/V head (prefill), or few (decode: keys are split over invocations). */
export type AttentionWork = "many-rows" | "few-rows";

/** What of a device decides whether a candidate runs: read on the host, never inside a shader. */
export interface DeviceFacts {
  /** True for adapters that run on the CPU. */
  isCpu: boolean;
  hasSubgroups: boolean;
  /** 0 where unknown. */
  subgroupMinSize: number;
  subgroupMaxSize: number;
  /** Bytes of workgroup memory. */
  workgroupBytes: number;
  /** Invocations of a workgroup. */
  invocations: number;
}

/** What a candidate needs; absent: nothing. */
export interface CandidateNeeds {
  /** Subgroups of at least so many invocations. */
  subgroupMinSize?: number;
  /** Subgroups of at most so many invocations. */
  subgroupMaxSize?: number;
  /** Bytes of workgroup memory per lane (four elements) of the wider of key and value. */
  workgroupBytesPerLane?: number;
  /** Largest headDim and valueDim. */
  maxHeadDim?: number;
  /** headDim and valueDim must be multiples of it. */
  dimMultiple?: number;
  /** Least and most query heads that share a K/V head. */
  group?: readonly [least: number, most: number];
  /** No masks that are looked up pair by pair: neither a mask tensor nor segments. */
  hasNoPairMasks?: boolean;
  /** Only with isCausal: the candidate differs from another by the order of tiles alone. */
  isCausal?: boolean;
}

/** One way to run attention. */
export interface AttentionCandidate {
  /** e.g. "register-8x16-quad": file or design, rows x keys held at once, what sets it apart. Never used twice. */
  id: string;
  works: readonly AttentionWork[];
  /** Values of the option `design` under which it stands. */
  designs: readonly ("register" | "tile" | "subgroup")[];
  source: KernelSource;
  knobs: Readonly<Record<string, KnobValue>>;
  /** Query rows (a token of one of the query heads that share a K/V head) per unit. */
  rows: number;
  /** Invocations of a workgroup; the knob WORKGROUP_SIZE. */
  workgroupSize: number;
  /** Units that one workgroup does: its invocations, or 1 where a workgroup shares a tile. */
  unitsPerWorkgroup: number;
  /** Whether four invocations share the reading of keys and values (lib/keys-quad.wgsl). */
  quads: boolean;
  /**
   * The kernel reads query, key and value itself, by quarters of rows: where a call's keys begin elsewhere in their binding,
   * the engine runs another kernel.
   */
  readsItself?: boolean;
  needs: CandidateNeeds;
}

/** attention.wgsl: 8 rows x 16 keys per invocation, in registers. */
const register = (id: string, workgroupSize: number, quads: boolean, isInOrder = false): AttentionCandidate => ({
  ...{ id, works: ["many-rows"], designs: [quads ? "subgroup" : "register"], source: ATTENTION, rows: 8 },
  ...{ workgroupSize, unitsPerWorkgroup: workgroupSize, quads },
  knobs: { QUAD: quads ? 4 : 1, LONGEST_FIRST: !isInOrder },
  needs: { ...(quads && { subgroupMinSize: 4 }), ...(isInOrder && { isCausal: true }) },
});

/** attention-stationary.wgsl: `rows` rows x 64 keys per invocation; its loops grow with rows x headDim. */
const stationary = (rows: number, maxHeadDim: number): AttentionCandidate => ({
  ...{ id: `stationary-${rows}x64`, works: ["many-rows"], designs: ["subgroup"], source: ATTENTION_STATIONARY, rows },
  ...{ workgroupSize: 4, unitsPerWorkgroup: 4, quads: true, readsItself: true, knobs: { ROWS: rows, KEYS: 64 } },
  // Compilers that optimize take minutes for its long loops; this one, which does not, has subgroups of 4.
  needs: { subgroupMinSize: 4, subgroupMaxSize: 4, dimMultiple: 4, maxHeadDim, hasNoPairMasks: true },
});

/** attention-few.wgsl: 4 rows x 16 keys per invocation. */
const few = (id: string, workgroupSize: number): AttentionCandidate => ({
  ...{ id, works: ["few-rows"], designs: ["register", "subgroup"], source: ATTENTION_FEW, rows: 4 },
  ...{ workgroupSize, unitsPerWorkgroup: workgroupSize, quads: false, knobs: {}, needs: {} },
});

/** Query heads per K/V head that fill so many rows. */
const GROUP_OF_ROWS = { 1: [1, 1], 2: [2, 2], 4: [3, 4], 8: [5, Number.POSITIVE_INFINITY] } as const;

/** attention-decode.wgsl: a quad holds `rows` rows and takes `keys` keys a turn; its loop grows with both and with headDim. */
const decode = (rows: 1 | 2 | 4 | 8, keys: 1 | 2, maxHeadDim: number, workgroupSize = 16): AttentionCandidate => ({
  id: `decode-${rows}x${keys}${workgroupSize === 16 ? "" : `-wg${workgroupSize}`}`,
  ...{ works: ["few-rows"], designs: ["subgroup"], source: ATTENTION_DECODE, rows, workgroupSize },
  ...{ unitsPerWorkgroup: workgroupSize / 4, quads: false, readsItself: true, knobs: { ROWS: rows, KEYS: keys } },
  needs: { subgroupMinSize: 4, dimMultiple: 16, maxHeadDim, group: GROUP_OF_ROWS[rows] },
});

/** attention-tile.wgsl: a workgroup of `rows` shares `keys` keys in workgroup memory. */
const tile = (id: string, rows: number, keys: number, isInOrder = false): AttentionCandidate => ({
  ...{ id, works: isInOrder ? ["many-rows"] : ["many-rows", "few-rows"], designs: ["tile"], source: ATTENTION_TILE },
  ...{ rows, workgroupSize: rows, unitsPerWorkgroup: 1, quads: false },
  knobs: { TILE_KV: keys, LONGEST_FIRST: !isInOrder },
  needs: { workgroupBytesPerLane: 16 * keys, ...(isInOrder && { isCausal: true }) },
});

/** All candidates; the tuner tries them in this order while its budget lasts, the safe choice first. */
export const ATTENTION_CANDIDATES: readonly AttentionCandidate[] = [
  stationary(8, 128),
  stationary(4, 256),
  register("register-8x16-quad", 16, true),
  register("register-8x16", 16, false),
  tile("tile-64x32", 64, 32),
  tile("tile-64x16", 64, 16),
  tile("tile-32x32", 32, 32),
  tile("tile-128x16", 128, 16),
  register("register-8x16-quad-wg32", 32, true),
  register("register-8x16-wg64", 64, false),
  register("register-8x16-quad-in-order", 16, true, true),
  tile("tile-64x32-in-order", 64, 32, true),
  tile("tile-64x8", 64, 8),
  decode(1, 2, 64),
  decode(1, 1, 128),
  decode(2, 1, 96),
  decode(4, 1, 80),
  decode(8, 1, 64),
  few("few-4x16", 16),
  few("few-4x16-wg32", 32),
  few("few-4x16-wg64", 64),
];

/** One line of the safe choice: a candidate, and on which adapters it is the one. */
export interface SafeChoice {
  id: string;
  adapters: "cpu" | "gpu" | "all";
  /** Subgroups of exactly this size. */
  subgroupSize?: number;
}

/**
 * What runs where nothing was measured: the first line that fits adapter, work and options. CPU adapters: registers, for
 * barriers are what costs there, with reads shared by quads where there are subgroups; GPUs: workgroup tiles that fit the
 * 16 KiB that every WebGPU device has.
 */
export const SAFE_CHOICES: readonly SafeChoice[] = [
  { id: "stationary-8x64", adapters: "cpu", subgroupSize: 4 },
  { id: "stationary-4x64", adapters: "cpu", subgroupSize: 4 },
  { id: "register-8x16-quad", adapters: "cpu" },
  { id: "register-8x16", adapters: "cpu" },
  { id: "decode-1x2", adapters: "cpu", subgroupSize: 4 },
  { id: "decode-1x1", adapters: "cpu" },
  { id: "decode-2x1", adapters: "cpu" },
  { id: "decode-4x1", adapters: "cpu" },
  { id: "decode-8x1", adapters: "cpu" },
  { id: "few-4x16", adapters: "all" },
  { id: "tile-64x32", adapters: "all" },
  { id: "tile-64x16", adapters: "all" },
  { id: "tile-64x8", adapters: "all" },
  { id: "register-8x16", adapters: "all" },
  { id: "register-8x16-quad", adapters: "all" },
];

/** Bytes of workgroup memory that a safe choice fills at most: the default limit of WebGPU. */
export const SAFE_WORKGROUP_BYTES = 16_384;

/** Lanes of four elements in the wider of key and value. */
const lanesOf = ({ headDim, valueDim }: ResolvedAttention): number => Math.ceil(Math.max(headDim, valueDim) / 4);

/** Bytes of workgroup memory that a candidate takes with these options. */
export const workgroupBytesOf = ({ needs }: AttentionCandidate, resolved: ResolvedAttention): number =>
  (needs.workgroupBytesPerLane ?? 0) * lanesOf(resolved);

/** Why a candidate cannot run on a device with these options, as half a sentence; undefined where it can. */
export function unmetNeed(
  candidate: AttentionCandidate,
  facts: DeviceFacts,
  resolved: ResolvedAttention,
): string | undefined {
  const { needs, workgroupSize } = candidate;
  const { headDim, valueDim } = resolved;
  if (workgroupSize > facts.invocations)
    return `needs ${workgroupSize} invocations per workgroup, the device allows ${facts.invocations}`;
  const bytes = workgroupBytesOf(candidate, resolved);
  if (bytes > facts.workgroupBytes)
    return `needs ${bytes} bytes of workgroup memory, the device allows ${facts.workgroupBytes}`;
  const { subgroupMinSize = 0, maxHeadDim = Number.POSITIVE_INFINITY, dimMultiple = 1, group } = needs;
  if (subgroupMinSize > 0 && !(facts.hasSubgroups && facts.subgroupMinSize >= subgroupMinSize))
    return `needs subgroups of at least ${subgroupMinSize}, the device has ${facts.hasSubgroups ? `subgroups of ${facts.subgroupMinSize}` : "none"}`;
  if (needs.subgroupMaxSize && facts.subgroupMaxSize > needs.subgroupMaxSize)
    return `needs subgroups of at most ${needs.subgroupMaxSize}, the device has up to ${facts.subgroupMaxSize}`;
  if (Math.max(headDim, valueDim) > maxHeadDim)
    return `needs headDim and valueDim of at most ${maxHeadDim}, got ${headDim} and ${valueDim}`;
  if (headDim % dimMultiple !== 0 || valueDim % dimMultiple !== 0)
    return `needs headDim and valueDim to be multiples of ${dimMultiple}, got ${headDim} and ${valueDim}`;
  if (group && (resolved.group < group[0] || resolved.group > group[1]))
    return `needs ${group[0]} to ${group[1]} query heads per K/V head, got ${resolved.group}`;
  if (needs.hasNoPairMasks && (resolved.mask !== "none" || resolved.hasSegments))
    return "cannot look up mask tensors or segments";
  if (needs.isCausal && !resolved.isCausal) return "differs from another candidate under a causal mask only";
  return undefined;
}
