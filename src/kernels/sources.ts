/** The only place that imports WGSL: each kernel file as text, by name. */

import add from "../../shaders/add.wgsl?raw";
import argmax from "../../shaders/argmax.wgsl?raw";
import attention from "../../shaders/attention.wgsl?raw";
import attentionDecode from "../../shaders/attention-decode.wgsl?raw";
import attentionFew from "../../shaders/attention-few.wgsl?raw";
import attentionStationary from "../../shaders/attention-stationary.wgsl?raw";
import attentionTile from "../../shaders/attention-tile.wgsl?raw";
import attentionVanilla from "../../shaders/attention-vanilla.wgsl?raw";
import copyTokens from "../../shaders/copy-tokens.wgsl?raw";
import embed from "../../shaders/embed.wgsl?raw";
import finalize from "../../shaders/finalize.wgsl?raw";
import fmaPeak from "../../shaders/fma-peak.wgsl?raw";
import activation from "../../shaders/lib/activation.wgsl?raw";
import attentionParams from "../../shaders/lib/attention-params.wgsl?raw";
import elem from "../../shaders/lib/elem.wgsl?raw";
import elements from "../../shaders/lib/elements.wgsl?raw";
import intoOutput from "../../shaders/lib/into-output.wgsl?raw";
import intoState from "../../shaders/lib/into-state.wgsl?raw";
import keysPlain from "../../shaders/lib/keys-plain.wgsl?raw";
import keysQuad from "../../shaders/lib/keys-quad.wgsl?raw";
import lanesScalar from "../../shaders/lib/lanes-scalar.wgsl?raw";
import lanesVec4 from "../../shaders/lib/lanes-vec4.wgsl?raw";
import lengths from "../../shaders/lib/lengths.wgsl?raw";
import lengthsNone from "../../shaders/lib/lengths-none.wgsl?raw";
import maskAdditive from "../../shaders/lib/mask-additive.wgsl?raw";
import maskBoolean from "../../shaders/lib/mask-boolean.wgsl?raw";
import maskIndex from "../../shaders/lib/mask-index.wgsl?raw";
import maskNone from "../../shaders/lib/mask-none.wgsl?raw";
import matmulGrouped from "../../shaders/lib/matmul-grouped.wgsl?raw";
import matmulIo from "../../shaders/lib/matmul-io.wgsl?raw";
import matmulOdd from "../../shaders/lib/matmul-odd.wgsl?raw";
import matmulSumQuad from "../../shaders/lib/matmul-sum-quad.wgsl?raw";
import matmulSumTree from "../../shaders/lib/matmul-sum-tree.wgsl?raw";
import outputScalar from "../../shaders/lib/output-scalar.wgsl?raw";
import outputVec4 from "../../shaders/lib/output-vec4.wgsl?raw";
import pairs from "../../shaders/lib/pairs.wgsl?raw";
import pairsNone from "../../shaders/lib/pairs-none.wgsl?raw";
import positions from "../../shaders/lib/positions.wgsl?raw";
import scoreTile from "../../shaders/lib/score-tile.wgsl?raw";
import segments from "../../shaders/lib/segments.wgsl?raw";
import segmentsNone from "../../shaders/lib/segments-none.wgsl?raw";
import sinks from "../../shaders/lib/sinks.wgsl?raw";
import sinksNone from "../../shaders/lib/sinks-none.wgsl?raw";
import weight from "../../shaders/lib/weight.wgsl?raw";
import widen from "../../shaders/lib/widen.wgsl?raw";
import matmul from "../../shaders/matmul.wgsl?raw";
import matmulDecode from "../../shaders/matmul-decode.wgsl?raw";
import matmulSubgroup from "../../shaders/matmul-subgroup.wgsl?raw";
import matmulTile from "../../shaders/matmul-tile.wgsl?raw";
import merge from "../../shaders/merge.wgsl?raw";
import readPeak from "../../shaders/read-peak.wgsl?raw";
import rmsnorm from "../../shaders/rmsnorm.wgsl?raw";
import rope from "../../shaders/rope.wgsl?raw";
import wireF16 from "../../shaders/wire-f16.wgsl?raw";
import type { KernelSource } from "../gpu/specialize.ts";

/** `attention.wgsl`, without its `lib/` files: which of them depends on the options. */
export const ATTENTION: KernelSource = { file: "attention.wgsl", code: attention };
/** `attention-decode.wgsl`, without its `lib/` files. */
export const ATTENTION_DECODE: KernelSource = { file: "attention-decode.wgsl", code: attentionDecode };
/** `attention-few.wgsl`, without its `lib/` files. */
export const ATTENTION_FEW: KernelSource = { file: "attention-few.wgsl", code: attentionFew };
/** `attention-stationary.wgsl` with how it reads query, key and value; its other `lib/` files depend on the options. */
export const ATTENTION_STATIONARY: KernelSource = {
  file: "attention-stationary.wgsl",
  code: attentionStationary,
  lib: [{ file: "lib/elements.wgsl", code: elements }],
};
/** `attention-tile.wgsl`, without its `lib/` files. */
export const ATTENTION_TILE: KernelSource = { file: "attention-tile.wgsl", code: attentionTile };
/** `attention-vanilla.wgsl`, without its `lib/` files. */
export const ATTENTION_VANILLA: KernelSource = { file: "attention-vanilla.wgsl", code: attentionVanilla };
/** `fma-peak.wgsl` */
export const FMA_PEAK: KernelSource = { file: "fma-peak.wgsl", code: fmaPeak };
/** `read-peak.wgsl` */
export const READ_PEAK: KernelSource = { file: "read-peak.wgsl", code: readPeak };
/** `finalize.wgsl`, without its `lib/` files. */
export const FINALIZE: KernelSource = { file: "finalize.wgsl", code: finalize };
/** `merge.wgsl`, without its `lib/` files. */
export const MERGE: KernelSource = { file: "merge.wgsl", code: merge };

/** The files of `shaders/lib/` that attention kernels are put together from. */
export const ATTENTION_LIB = {
  params: { file: "lib/attention-params.wgsl", code: attentionParams },
  lanesVec4: { file: "lib/lanes-vec4.wgsl", code: lanesVec4 },
  lanesScalar: { file: "lib/lanes-scalar.wgsl", code: lanesScalar },
  positions: { file: "lib/positions.wgsl", code: positions },
  lengths: { file: "lib/lengths.wgsl", code: lengths },
  lengthsNone: { file: "lib/lengths-none.wgsl", code: lengthsNone },
  segments: { file: "lib/segments.wgsl", code: segments },
  segmentsNone: { file: "lib/segments-none.wgsl", code: segmentsNone },
  elem: { file: "lib/elem.wgsl", code: elem },
  scoreTile: { file: "lib/score-tile.wgsl", code: scoreTile },
  keysPlain: { file: "lib/keys-plain.wgsl", code: keysPlain },
  keysQuad: { file: "lib/keys-quad.wgsl", code: keysQuad },
  outputVec4: { file: "lib/output-vec4.wgsl", code: outputVec4 },
  outputScalar: { file: "lib/output-scalar.wgsl", code: outputScalar },
  pairs: { file: "lib/pairs.wgsl", code: pairs },
  pairsNone: { file: "lib/pairs-none.wgsl", code: pairsNone },
  maskNone: { file: "lib/mask-none.wgsl", code: maskNone },
  maskIndex: { file: "lib/mask-index.wgsl", code: maskIndex },
  maskAdditive: { file: "lib/mask-additive.wgsl", code: maskAdditive },
  maskBoolean: { file: "lib/mask-boolean.wgsl", code: maskBoolean },
  intoState: { file: "lib/into-state.wgsl", code: intoState },
  intoOutput: { file: "lib/into-output.wgsl", code: intoOutput },
  sinks: { file: "lib/sinks.wgsl", code: sinks },
  weight: { file: "lib/weight.wgsl", code: weight },
  sinksNone: { file: "lib/sinks-none.wgsl", code: sinksNone },
} satisfies Record<string, KernelSource>;

/** `copy-tokens.wgsl`. */
export const COPY_TOKENS: KernelSource = { file: "copy-tokens.wgsl", code: copyTokens };

const WIDEN: KernelSource = { file: "lib/widen.wgsl", code: widen };

const MATMUL_IO: readonly KernelSource[] = [
  WIDEN,
  { file: "lib/matmul-io.wgsl", code: matmulIo },
  { file: "lib/activation.wgsl", code: activation },
];
/** `lib/` of a matmul kernel that reads groups of four. */
export const MATMUL_GROUPED: readonly KernelSource[] = [
  ...MATMUL_IO,
  { file: "lib/matmul-grouped.wgsl", code: matmulGrouped },
];
/** `lib/` of a matmul kernel that reads element by element. */
export const MATMUL_ODD: readonly KernelSource[] = [...MATMUL_IO, { file: "lib/matmul-odd.wgsl", code: matmulOdd }];
/** How the decode kernel adds the sums of invocations that share a tile: four of them by lane exchanges, or any number. */
export const MATMUL_SUMS = {
  quad: { file: "lib/matmul-sum-quad.wgsl", code: matmulSumQuad },
  tree: { file: "lib/matmul-sum-tree.wgsl", code: matmulSumTree },
} satisfies Record<string, KernelSource>;
/** The designs of matmul, without their `lib/` files. */
export const MATMUL = {
  register: { file: "matmul.wgsl", code: matmul },
  subgroup: { file: "matmul-subgroup.wgsl", code: matmulSubgroup },
  tile: { file: "matmul-tile.wgsl", code: matmulTile },
  decode: { file: "matmul-decode.wgsl", code: matmulDecode },
} satisfies Record<string, KernelSource>;

/** `rmsnorm.wgsl`. */
export const RMSNORM: KernelSource = { file: "rmsnorm.wgsl", code: rmsnorm, lib: [WIDEN] };
/** `rope.wgsl`. */
export const ROPE: KernelSource = { file: "rope.wgsl", code: rope };
/** `embed.wgsl`. */
export const EMBED: KernelSource = { file: "embed.wgsl", code: embed, lib: [WIDEN] };
/** `add.wgsl`. */
export const ADD: KernelSource = { file: "add.wgsl", code: add };
/** `argmax.wgsl`. */
export const ARGMAX: KernelSource = { file: "argmax.wgsl", code: argmax };
/** `wire-f16.wgsl`. */
export const WIRE_F16: KernelSource = { file: "wire-f16.wgsl", code: wireF16 };
