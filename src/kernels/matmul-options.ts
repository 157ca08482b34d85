/** What a matmul is made with and called with, its limits, and the cutting of calls too large for one binding. */
import { ShapeError } from "../errors.ts";
import { type BufferSource, type BufferView, viewOf } from "../gpu/buffers.ts";
import { BYTES_PER_ELEMENT, type Dtype, expectInteger, type WeightDtype } from "../shape.ts";

/** Applied to the result in f32, after the bias: x * sigmoid(x), x * Phi(x) by erf, its tanh form, max(x, 0). */
export type Activation = "none" | "silu" | "gelu" | "gelu_tanh" | "relu";

/**
 * Which kernel: `register` and `subgroup` (no barriers; `subgroup` needs subgroups of at least 4 lanes) for adapters that run
 * on the CPU, `tile` (workgroup memory) for GPUs, `decode` for few rows; `auto` chooses by adapter and rows.
 */
export type MatmulDesign = "auto" | "register" | "subgroup" | "tile" | "decode";

/** What does not change between calls of a matmul. */
export interface MatmulOptions {
  /** Type of the weight and of the bias, as stored. f16 and bf16 need no device feature. */
  weightDtype: WeightDtype;
  /** Type of input and output. Default "f32". */
  dtype?: Dtype;
  /** Calls carry a bias. Default false. */
  hasBias?: boolean;
  /** Default "none". */
  activation?: Activation;
  /** Two weights: output = activation(input . weight) * (input . upWeight), the first half of SwiGLU. Default false. */
  gated?: boolean;
  /** Default "auto". */
  design?: MatmulDesign;
  label?: string;
}

/** One call: all on the GPU. M rows, K inFeatures, N outFeatures. */
export interface MatmulTensors {
  /** `[M, K]` */
  input: BufferSource;
  /** `[N, K]`, row-major as Hugging Face stores a Linear. */
  weight: BufferSource;
  /** `[N]`, with `hasBias`. */
  bias?: BufferSource;
  /** `[N, K]`, with `gated`. */
  upWeight?: BufferSource;
  /** `[N]`, with `gated` and `hasBias`. */
  upBias?: BufferSource;
  /** `[M, N]`; another buffer than the input's. */
  output: BufferSource;
  rows: number;
  inFeatures: number;
  outFeatures: number;
  /** Add to what the output holds (a residual) instead of replacing it. Default false. */
  accumulate?: boolean;
  /** Elements from one input row to the next. Default `inFeatures`. */
  inputStride?: number;
  /** Elements from one output row to the next. Default `outFeatures`. */
  outputStride?: number;
}

/** Bytes `[byteOffset, byteOffset + byteLength)` of a source's view. @throws {ShapeError} where the view is shorter. */
export function partOf(
  where: string,
  name: string,
  source: BufferSource,
  byteOffset: number,
  byteLength: number,
): Required<BufferView> {
  const view = viewOf(source);
  if (byteOffset + byteLength > view.byteLength)
    throw new ShapeError(
      `${where}: expected ${name} of at least ${byteOffset + byteLength} bytes, got ${view.byteLength} ("${view.buffer.label}")`,
    );
  return { buffer: view.buffer, byteOffset: view.byteOffset + byteOffset, byteLength };
}

/** Checks a call before anything is encoded. @throws {ShapeError | OptionError} naming what was expected and what came. */
export function checkMatmul(where: string, options: MatmulOptions, tensors: MatmulTensors): void {
  const { rows, inFeatures, outFeatures } = tensors;
  expectInteger(where, "rows", rows, 0);
  expectInteger(where, "inFeatures", inFeatures);
  expectInteger(where, "outFeatures", outFeatures);
  expectInteger(where, "inputStride", tensors.inputStride ?? inFeatures, inFeatures);
  expectInteger(where, "outputStride", tensors.outputStride ?? outFeatures, outFeatures);
  for (const [name, isWanted] of [
    ["bias", options.hasBias],
    ["upWeight", options.gated],
    ["upBias", options.hasBias && options.gated],
  ] as const)
    if (Boolean(isWanted) !== Boolean(tensors[name]))
      throw new ShapeError(`${where}: expected ${isWanted ? "a" : "no"} ${name}, got ${isWanted ? "none" : "one"}`);
  if (rows === 0) return;
  const bytes = BYTES_PER_ELEMENT[options.dtype ?? "f32"];
  const weightBytes = BYTES_PER_ELEMENT[options.weightDtype];
  const span = (stride: number, width: number) => ((rows - 1) * stride + width) * bytes;
  partOf(where, "input", tensors.input, 0, span(tensors.inputStride ?? inFeatures, inFeatures));
  partOf(where, "output", tensors.output, 0, span(tensors.outputStride ?? outFeatures, outFeatures));
  partOf(where, "weight", tensors.weight, 0, inFeatures * outFeatures * weightBytes);
  if (tensors.upWeight) partOf(where, "upWeight", tensors.upWeight, 0, inFeatures * outFeatures * weightBytes);
  if (tensors.bias) partOf(where, "bias", tensors.bias, 0, outFeatures * weightBytes);
  if (tensors.upBias) partOf(where, "upBias", tensors.upBias, 0, outFeatures * weightBytes);
  if (viewOf(tensors.input).buffer === viewOf(tensors.output).buffer)
    throw new ShapeError(
      `${where}: expected input and output in different buffers, got "${viewOf(tensors.input).buffer.label}" for both`,
    );
}

/** Rows and columns of one dispatch. */
export interface MatmulPart {
  row: number;
  rows: number;
  column: number;
  columns: number;
}

/**
 * Cuts a call so that no part's input, weight or output reaches over more than `mostBytes`: a lm_head larger than
 * `maxStorageBufferBindingSize` becomes several dispatches over its columns.
 * @throws {ShapeError} where a single row is larger than that.
 */
export function matmulParts(
  where: string,
  sizes: { rows: number; outFeatures: number; inputRowBytes: number; outputRowBytes: number; weightRowBytes: number },
  mostBytes: number,
): MatmulPart[] {
  const widest = Math.max(sizes.inputRowBytes, sizes.outputRowBytes, sizes.weightRowBytes);
  if (widest > mostBytes)
    throw new ShapeError(`${where}: expected rows of at most ${mostBytes} bytes (a binding's limit), got ${widest}`);
  const rowsPerPart = Math.floor(mostBytes / Math.max(sizes.inputRowBytes, sizes.outputRowBytes));
  const columnsPerPart = Math.floor(mostBytes / sizes.weightRowBytes);
  const parts: MatmulPart[] = [];
  for (let row = 0; row < sizes.rows; row += rowsPerPart)
    for (let column = 0; column < sizes.outFeatures; column += columnsPerPart)
      parts.push({
        row,
        rows: Math.min(rowsPerPart, sizes.rows - row),
        column,
        columns: Math.min(columnsPerPart, sizes.outFeatures - column),
      });
  return parts;
}
