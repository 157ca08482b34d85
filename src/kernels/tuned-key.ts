/** Under what a tuned choice is kept: the adapter, its driver and browser, the library, and a class of shapes. */
import { describeAdapter } from "../gpu/device.ts";
import type { ResolvedAttention } from "./attention-options.ts";
import type { AttentionCandidate, AttentionWork } from "./candidates.ts";
import { ATTENTION_LIB } from "./sources.ts";

/** Ringwise's version, as package.json has it (a test holds them together). */
export const LIBRARY_VERSION = "0.1.0";

/**
 * The adapter in one line: vendor, architecture, CPU or GPU, subgroup sizes, e.g. "google/swiftshader cpu subgroups 4-4".
 * Browsers tell no more. A CPU adapter and a GPU never share a key; undefined where vendor and architecture are not told,
 * for then nobody can say whose figures these are.
 */
export function adapterKey(device: GPUDevice): string | undefined {
  const { vendor, architecture, isCpu, subgroupMinSize, subgroupMaxSize } = describeAdapter(device);
  if (!vendor && !architecture) return undefined;
  return `${vendor}/${architecture} ${isCpu ? "cpu" : "gpu"} subgroups ${subgroupMinSize}-${subgroupMaxSize}`;
}

/** {@link adapterKey}, and for adapters that are not told what else sets them apart: good enough within one browser. */
export function storedAdapterKey(device: GPUDevice): string {
  const { isCpu, subgroupMinSize, subgroupMaxSize } = describeAdapter(device);
  const { maxBufferSize } = device.limits;
  const unknown = `unknown ${isCpu ? "cpu" : "gpu"} subgroups ${subgroupMinSize}-${subgroupMaxSize} buffers ${maxBufferSize}`;
  return adapterKey(device) ?? unknown;
}

/** What is known of the driver and of the compiler above it: device, description, browser and its major version. */
export function driverKey(device: GPUDevice): string {
  const info = device.adapterInfo as (GPUAdapterInfo & { driver?: string }) | undefined;
  const agent = (globalThis.navigator as Navigator | undefined)?.userAgent ?? "";
  // The browser compiles WGSL: another version may rank kernels otherwise.
  const browser = /(?:Chrome|Firefox|Version)\/\d+/.exec(agent)?.[0] ?? "Node";
  return [info?.device, info?.description, info?.driver, browser].filter(Boolean).join(", ");
}

/** Widths of key and value that are tuned together: one class from each to the next. */
const DIM_CLASSES = [16, 32, 64, 96, 128, 192, 256] as const;
/** From so many tokens on a call is long. */
const LONG_TOKENS = 1024;

/**
 * The class of shapes that one choice stands for, e.g. "f32 d64 causal long many-rows".
 *
 * What matters to the ranking: element type; width of key and value (registers and workgroup memory), and whether lanes of
 * four fit; whether most tiles are cut off by a causal mask or a window (their order, and how large a tile may be before it
 * is mostly hidden); many or few rows; the length, because a short call fills a large GPU only with small tiles. With few
 * rows the number of query heads per K/V head counts (they fill the rows) and the mask does not. Heads, batch, scale,
 * softcap and layout are left out: they make the same kernels slower alike. So do masks and segments, but not every kernel
 * knows them: "pairs" is a class of its own.
 */
export function shapeClass(resolved: ResolvedAttention, work: AttentionWork): string {
  const { dtype, headDim, valueDim, group, isCausal, window, design } = resolved;
  const dim = DIM_CLASSES.find((limit) => limit >= Math.max(headDim, valueDim));
  const isOdd = headDim % 4 !== 0 || valueDim % 4 !== 0;
  const mask = window > 0 ? "window" : isCausal ? "causal" : "full";
  const shared = group >= 8 ? "g8" : group >= 4 ? "g4" : group >= 2 ? "g2" : "g1";
  const length = resolved.expectedSeqLen < LONG_TOKENS ? "short" : "long";
  return [
    dtype,
    `d${dim}${isOdd ? " odd" : ""}`,
    work === "many-rows" ? mask : shared,
    ...(resolved.mask !== "none" || resolved.hasSegments ? ["pairs"] : []),
    length,
    work,
    ...(design === "auto" ? [] : [`design ${design}`]),
  ].join(" ");
}

/** The class and those that stand in for it where it was never measured, nearest first: the other length, no masks. */
export function nearClasses(shape: string): string[] {
  const otherLength = (one: string) =>
    one.replace(/ (long|short) /, (_, length) => (length === "long" ? " short " : " long "));
  const bare = shape.replace(" pairs ", " ");
  return [...new Set([shape, otherLength(shape), bare, otherLength(bare)])];
}

const kernelsKeys = new WeakMap<readonly AttentionCandidate[], string>();

/** 32 bits over the candidates' data and text, comments left out: choices among other kernels are no longer good. */
export function kernelsKey(candidates: readonly AttentionCandidate[]): string {
  let key = kernelsKeys.get(candidates);
  if (key !== undefined) return key;
  // Of the comments only those count that specialize() obeys.
  const bare = (code: string) => code.replace(/\/\/(?! unrolled).*$/gm, "").replace(/\s+/g, " ");
  const lib = Object.values(ATTENTION_LIB).map(({ code }) => bare(code));
  const list = candidates.map(({ source, ...data }) => [data, source.file, bare(source.code)]);
  let hash = 0x811c9dc5;
  const text = JSON.stringify([lib, list]);
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0;
  kernelsKeys.set(candidates, (key = hash.toString(16).padStart(8, "0")));
  return key;
}
