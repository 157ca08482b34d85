/**
 * Matrix product with a weight as Hugging Face stores it: output = activation(input . weight^T + bias), optionally added to
 * what the output holds, optionally gated by a second weight. Four kernels behind one call; see shaders/matmul*.wgsl.
 *
 * Measured in Node on two cores that other work shared (ringwise bench, share of what was measured in turn with it; where two
 * figures stand, the machine was quiet at the first, busy at the second): 1024 cubed, SwiftShader f32 26 and 42% of the
 * multiply-add peak (subgroup), lavapipe f32 44 and 55%, f16 46 and 49% (subgroup, narrow; register reaches 40% of that);
 * 1 x 2048 x 8192, SwiftShader f32 59 to 82% of the read bandwidth, lavapipe f32 83 to 88%, f16 64 to 68%; the MLP of
 * 256 x 1024 in chunks of 256, SwiftShader f32 26 and 36%, lavapipe f32 33%, f16 42%. No GPU has been measured.
 * SwiftShader by CPU time, 256 x 1024 x 256, quiet: 27 to 30% of the peak, the kernel before this 26%; with a bare store, 34%.
 *
 * What SwiftShader does with the subgroup kernel, from its machine code: one turn (four inner elements, 512 multiply-adds of
 * four lanes) is 53 KB and runs 8,460 instructions, 16.5 a multiply-add: 8.5 of them in reading (about 90 for each of 48
 * scalars), 4 in multiplying, 4 in carrying the sums on (14 a scalar). The kernel before it ran 24, and had 76 KB.
 * In vain, in instructions a multiply-add and KB a turn, own rows x rows shared by the quad per lane: 8 x 16, all products after
 * all reads 17.2 and 58; dot(weights, row) 16.6; 8 x 24 14.3 and 70, 8 x 32 13.3 and 86 (half as fast: past the instruction
 * cache); eight inner elements a turn 14.7 and 98; 6 x 24 15.6 and 57 (about as fast, in odd sizes); sums in a private array
 * 18; rows as pointers into array<array<vec4f, N>>, N known or 16, 16.8 and more. So 55% is out of reach there: whatever
 * the kernel, about 9.3 thousand million instructions a second run, which makes 55% some 10 a multiply-add; reading cannot be
 * shared by more than a quad, and a tile that reads less has too much code. Rows 4 KiB apart cost 8% (1040 wide is faster).
 * decode: the sums of four lanes added in workgroup memory instead of by exchanges took 1.2 to 1.4 times as long (SwiftShader
 * clears workgroup memory word by word, in code, in every subgroup); one lane per tile is as fast as four, to 10%.
 * f16 weights read as the device's own halves were no faster than unpack2x16float on lavapipe.
 * First compile of the subgroup and decode kernels on the busy machine: SwiftShader 0.2 to 0.8 s and 0.1 to 0.3 s, lavapipe
 * 1.6 to 2.8 s and 2.7 s (Mesa keeps them on disk).
 */
import { OptionError } from "../errors.ts";
import type { BufferSource } from "../gpu/buffers.ts";
import { describeAdapter, expectF16 } from "../gpu/device.ts";
import {
  type AlignedBinding,
  alignedBinding,
  type CommandTarget,
  dispatch,
  placeholder,
  spreadWorkgroups,
  uniforms,
} from "../gpu/dispatch.ts";
import { getKernel, type Kernel } from "../gpu/pipeline.ts";
import { type KernelSource, specialize } from "../gpu/specialize.ts";
import { BYTES_PER_ELEMENT, expectOneOf } from "../shape.ts";
import {
  checkMatmul,
  type MatmulDesign,
  type MatmulOptions,
  type MatmulPart,
  type MatmulTensors,
  matmulParts,
  partOf,
} from "./matmul-options.ts";
import { MATMUL, MATMUL_GROUPED, MATMUL_ODD, MATMUL_SUMS } from "./sources.ts";

export type { Activation, MatmulDesign, MatmulOptions, MatmulTensors } from "./matmul-options.ts";

type Design = Exclude<MatmulDesign, "auto">;

/** Rows up to which a call is bound by reading the weight, so that the decode kernel runs it. */
const DECODE_ROWS = 4;

/** How a kernel shares out its work. */
interface Tiling {
  /** Invocations per workgroup. */
  workgroup: number;
  /** Rows and columns per tile, and how many invocations share one. */
  rows: number;
  columns: number;
  lanes: number;
  /** Knobs and `lib/` files of this tiling. */
  knobs?: Readonly<Record<string, number>>;
  lib?: readonly KernelSource[];
}

/**
 * Tilings by design; of `subgroup` and `decode` there are several, see {@link tilingOf}. Narrow tiles for LLVM (lavapipe): twice
 * as wide ones were no faster there and took 7 s to compile instead of 2 s.
 */
const TILINGS = {
  register: { workgroup: 32, rows: 8, columns: 8, lanes: 1 },
  tile: { workgroup: 64, rows: 64, columns: 64, lanes: 64 },
  subgroupOf4: { workgroup: 32, rows: 16, columns: 32, lanes: 4, knobs: { COLUMNS: 8 } },
  subgroup: { workgroup: 32, rows: 16, columns: 16, lanes: 4, knobs: { COLUMNS: 4 } },
  decodeGpu: { workgroup: 64, rows: 1, ...decodeBy(32, 4), lib: [MATMUL_SUMS.tree] },
  decodeQuads: { workgroup: 64, rows: 1, ...decodeBy(4, 8), lib: [MATMUL_SUMS.quad] },
  decode: { workgroup: 64, rows: 1, ...decodeBy(1, 8), lib: [MATMUL_SUMS.tree] },
} satisfies Record<string, Tiling>;

function decodeBy(lanes: number, columns: number) {
  return { lanes, columns, knobs: { LANES: lanes, COLUMNS: columns } };
}

const WEIGHT_FORMATS = { f32: 0, f16: 1, bf16: 2 } as const;
const ACTIVATIONS = { none: 0, silu: 1, gelu: 2, gelu_tanh: 3, relu: 4 } as const;

/** A compiled matmul; see {@link createMatmul}. */
export interface Matmul {
  readonly options: Readonly<MatmulOptions>;
  /**
   * Encodes the product of M rows. Allocates nothing and does not submit.
   * @throws {ShapeError} where a tensor is too small, missing or too many, or input and output share a buffer.
   */
  encode(target: CommandTarget, tensors: MatmulTensors): void;
}

/** Whether four invocations that follow each other can exchange what they hold. */
function hasQuads(device: GPUDevice): boolean {
  const { hasSubgroups, subgroupMinSize } = describeAdapter(device);
  return hasSubgroups && subgroupMinSize >= 4;
}

/** The design for many rows on this device. */
function chooseDesign(device: GPUDevice): Design {
  if (!describeAdapter(device).isCpu) return "tile";
  return hasQuads(device) ? "subgroup" : "register";
}

/** How a design shares out its work on this device. */
function tilingOf(device: GPUDevice, design: Design): Tiling {
  const { isCpu, subgroupMaxSize } = describeAdapter(device);
  if (design === "subgroup") return subgroupMaxSize === 4 ? TILINGS.subgroupOf4 : TILINGS.subgroup;
  if (design !== "decode") return TILINGS[design];
  if (!isCpu) return TILINGS.decodeGpu;
  return hasQuads(device) ? TILINGS.decodeQuads : TILINGS.decode;
}

/**
 * Compiles a matmul for one set of types. `register` and `subgroup` multiply in f32 with f32 sums, as `tile` does.
 * @throws {OptionError} for an unknown option, or a design that this device cannot run.
 * @throws {UnsupportedDeviceError} for dtype f16 on a device without `shader-f16`.
 */
export async function createMatmul(device: GPUDevice, options: MatmulOptions): Promise<Matmul> {
  const where = options.label ? `createMatmul("${options.label}")` : "createMatmul";
  const weightDtype = expectOneOf(where, "weightDtype", options.weightDtype, ["f32", "f16", "bf16"]);
  const dtype = expectOneOf(where, "dtype", options.dtype ?? "f32", ["f32", "f16"]);
  expectF16(where, device, dtype);
  const activation = expectOneOf(where, "activation", options.activation ?? "none", [
    "none",
    "silu",
    "gelu",
    "gelu_tanh",
    "relu",
  ]);
  const forced = expectOneOf(where, "design", options.design ?? "auto", [
    "auto",
    "register",
    "subgroup",
    "tile",
    "decode",
  ]);
  const adapter = describeAdapter(device);
  if (forced === "subgroup" && !hasQuads(device))
    throw new OptionError(
      `${where}: expected a device with subgroups of at least 4 lanes for design "subgroup", got ${adapter.name} with ${adapter.subgroupMinSize} to ${adapter.subgroupMaxSize}`,
    );
  const manyRows = forced === "auto" ? chooseDesign(device) : forced;
  const { gated = false, hasBias = false } = options;
  const bytes = BYTES_PER_ELEMENT[dtype];
  const weightBytes = BYTES_PER_ELEMENT[weightDtype];

  const compile = (design: Design, isGrouped: boolean): Promise<Kernel> => {
    const { knobs, lib = [] } = tilingOf(device, design);
    const reading = isGrouped ? MATMUL_GROUPED : MATMUL_ODD;
    const kernel: KernelSource = { ...MATMUL[design], lib: [...reading, ...lib] };
    const source = specialize(kernel, {
      InputGroup: isGrouped ? `vec4<${dtype}>` : dtype,
      OutputElem: dtype,
      WEIGHT_FORMAT: WEIGHT_FORMATS[weightDtype],
      GATED: gated,
      ACTIVATION: ACTIVATIONS[activation],
      ...(isGrouped && weightDtype !== "f32" ? { WeightGroup: "vec2<u32>", WEIGHT_WORDS: 2 } : {}),
      ...knobs,
    });
    const label = `${kernel.file} ${weightDtype}${gated ? " gated" : ""}${isGrouped ? "" : " odd"}`;
    return getKernel(device, {
      label,
      source,
      bindings: ["uniform", "read", "read", "read", "read", "read", "read-write"],
    });
  };
  // Odd rows are rare. On a CPU adapter the small decode kernel reads them too, many or few: half the speed of a tile of its
  // own, and no compile for it at every start.
  const oddRows: Design = forced === "auto" && adapter.isCpu ? "decode" : manyRows;
  const fewRows: Design = forced === "auto" ? "decode" : manyRows;
  const kernels = {
    many: { grouped: await compile(manyRows, true), odd: await compile(oddRows, false) },
    few: { grouped: await compile(fewRows, true), odd: await compile(fewRows, false) },
  };
  const tilings = {
    few: tilingOf(device, fewRows),
    many: tilingOf(device, manyRows),
    odd: tilingOf(device, oddRows),
  };
  const mostBytes = device.limits.maxStorageBufferBindingSize - device.limits.minStorageBufferOffsetAlignment;
  const unused: AlignedBinding = { binding: { buffer: placeholder(device) }, skipBytes: 0 };

  function encode(target: CommandTarget, tensors: MatmulTensors): void {
    const call = options.label ? `matmul("${options.label}")` : "matmul";
    checkMatmul(call, options, tensors);
    const { rows, inFeatures, outFeatures, inputStride = inFeatures, outputStride = outFeatures } = tensors;
    const rowBytes = {
      inputRowBytes: inputStride * bytes,
      outputRowBytes: outputStride * bytes,
      weightRowBytes: inFeatures * weightBytes,
    };
    for (const part of matmulParts(call, { rows, outFeatures, ...rowBytes }, mostBytes))
      encodePart(call, target, tensors, part);
  }

  function encodePart(call: string, target: CommandTarget, tensors: MatmulTensors, part: MatmulPart): void {
    const { inFeatures, outFeatures, inputStride = inFeatures, outputStride = outFeatures } = tensors;
    const bind = (name: string, source: BufferSource | undefined, first: number, count: number, size: number) =>
      source ? alignedBinding(device, partOf(call, name, source, first * size, count * size)) : unused;
    const span = (stride: number, width: number) => (part.rows - 1) * stride + width;
    const weightPart = [part.column * inFeatures, part.columns * inFeatures, weightBytes] as const;
    const biasPart = [part.column, part.columns, weightBytes] as const;
    const input = bind("input", tensors.input, part.row * inputStride, span(inputStride, inFeatures), bytes);
    const weight = bind("weight", tensors.weight, ...weightPart);
    const upWeight = bind("upWeight", tensors.upWeight, ...weightPart);
    const bias = bind("bias", tensors.bias, ...biasPart);
    const upBias = bind("upBias", tensors.upBias, ...biasPart);
    const outputStart = part.row * outputStride + part.column;
    const output = bind("output", tensors.output, outputStart, span(outputStride, part.columns), bytes);

    const starts = [input.skipBytes / bytes, weight.skipBytes / weightBytes, upWeight.skipBytes / weightBytes] as const;
    const isGrouped = [inFeatures, inputStride, ...starts].every((elements) => elements % 4 === 0);
    const isFew = forced === "auto" && part.rows <= DECODE_ROWS;
    const tiling = tilings[isFew ? "few" : isGrouped ? "many" : "odd"];
    const columnTiles = Math.ceil(part.columns / (gated ? tiling.columns / 2 : tiling.columns));
    const tiles = Math.ceil(part.rows / tiling.rows) * columnTiles;
    const workgroups = spreadWorkgroups(device, Math.ceil((tiles * tiling.lanes) / tiling.workgroup));
    const sizes = [
      ...[part.rows, inFeatures, part.columns, tensors.accumulate ? 1 : 0],
      ...[starts[0], inputStride, output.skipBytes / bytes, outputStride],
      ...[starts[1], starts[2], bias.skipBytes / weightBytes, upBias.skipBytes / weightBytes],
      ...[columnTiles, workgroups[0], hasBias ? 1 : 0],
    ].map((u32) => ({ u32 }));
    dispatch(device, target, {
      kernel: kernels[isFew ? "few" : "many"][isGrouped ? "grouped" : "odd"],
      bindings: [
        uniforms(device, sizes),
        ...[input, weight, upWeight, bias, upBias, output].map((aligned) => aligned.binding),
      ],
      workgroups,
    });
  }

  return { options, encode };
}
