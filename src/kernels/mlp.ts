/**
 * Blockwise feed-forward (Liu and Abbeel, Blockwise Parallel Transformer, arXiv 2305.19370): tokens go through the MLP in
 * chunks, so the intermediate activation exists for one chunk only. Extra memory is chunk x intermediate, at any length.
 *
 * SwiGLU: `down(activation(gate(x)) * up(x))`, gate and up fused in one kernel with the activation (the gated variants of
 * shaders/matmul*.wgsl). GELU and the like: `down(activation(up(x)))`, the activation fused into the first product.
 */
import { ShapeError } from "../errors.ts";
import { allocate, type BufferSource, release, viewOf } from "../gpu/buffers.ts";
import { expectF16 } from "../gpu/device.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import { BYTES_PER_ELEMENT, type Dtype, expectInteger, expectOneOf, type WeightDtype } from "../shape.ts";
import { type Activation, createMatmul, type MatmulDesign } from "./matmul.ts";
import { partOf } from "./matmul-options.ts";

/** What does not change between calls of an MLP. C hiddenSize, F intermediateSize. */
export interface MlpOptions {
  hiddenSize: number;
  intermediateSize: number;
  activation: Activation;
  /** True: gate, up and down (SwiGLU). False: up and down (also called fc1 and fc2). */
  gated: boolean;
  /** Type of the weights and biases, as stored. */
  weightDtype: WeightDtype;
  /** Tokens per chunk: the scratch buffer has `mlpChunkSize * intermediateSize` elements. */
  mlpChunkSize: number;
  /** Calls carry a bias for every weight. Default false. */
  hasBias?: boolean;
  /** Type of input, output and intermediate; sums are f32. Default "f32". */
  dtype?: Dtype;
  /** Whose the intermediate activation's memory is: with "caller", every call brings it. Default "own". */
  scratch?: "own" | "caller";
  /** See {@link MatmulDesign}. Default "auto". */
  design?: MatmulDesign;
  label?: string;
}

/** One call: T tokens. */
export interface MlpTensors {
  /** `[T, C]` */
  input: BufferSource;
  /** `[T, C]`, another buffer than the input's. */
  output: BufferSource;
  tokens: number;
  /** `[F, C]`, with `gated`. */
  gate?: BufferSource;
  /** `[F, C]` */
  up: BufferSource;
  /** `[C, F]` */
  down: BufferSource;
  /** `[F]`, `[F]`, `[C]`, with `hasBias`. */
  gateBias?: BufferSource;
  upBias?: BufferSource;
  downBias?: BufferSource;
  /** `[chunk, F]` of at most `mlpChunkSize` tokens, with scratch "caller": chunks are as long as it is. */
  scratch?: BufferSource;
  /** Add to what the output holds (the residual stream) instead of replacing it. Default false. */
  accumulate?: boolean;
}

/** A compiled MLP with its scratch buffer; see {@link createMlp}. */
export interface Mlp {
  readonly options: Readonly<MlpOptions>;
  /** Bytes of the intermediate activation of a whole chunk: all the memory that a call takes beyond its tensors, at any T. */
  readonly scratchByteLength: number;
  /** Encodes the chunks one after another. @throws {ShapeError} where a tensor is too small, missing or too many. */
  encode(target: CommandTarget, tensors: MlpTensors): void;
  /** Frees the scratch buffer; weights and tensors are the caller's. */
  destroy(): void;
  [Symbol.dispose](): void;
}

/** Multiplications and additions of an MLP over `tokens`, for benches. */
export const mlpFlops = (
  options: Pick<MlpOptions, "hiddenSize" | "intermediateSize" | "gated">,
  tokens: number,
): number => 2 * tokens * options.hiddenSize * options.intermediateSize * (options.gated ? 3 : 2);

/**
 * Compiles an MLP and, unless the caller brings it, allocates its scratch buffer.
 * @throws {OptionError} for sizes that are not positive integers, and an unknown choice. @throws {GpuMemoryError} where the scratch does not fit.
 */
export async function createMlp(device: GPUDevice, options: MlpOptions): Promise<Mlp> {
  const where = options.label ? `mlp("${options.label}")` : "mlp";
  const hiddenSize = expectInteger(where, "hiddenSize", options.hiddenSize);
  const intermediateSize = expectInteger(where, "intermediateSize", options.intermediateSize);
  const chunkSize = expectInteger(where, "mlpChunkSize", options.mlpChunkSize);
  const { gated, weightDtype, dtype = "f32", hasBias, design, activation } = options;
  expectF16(where, device, dtype);
  const shared = { weightDtype, dtype, hasBias, design };
  const first = await createMatmul(device, { ...shared, activation, gated, label: `${where} up` });
  const second = await createMatmul(device, { ...shared, label: `${where} down` });
  const bytes = BYTES_PER_ELEMENT[dtype];
  const scratchByteLength = chunkSize * intermediateSize * bytes;
  const isOwn = expectOneOf(where, "scratch", options.scratch ?? "own", ["own", "caller"]) === "own";
  const own = isOwn
    ? await allocate(device, { label: `${where} intermediate`, byteLength: scratchByteLength })
    : undefined;

  function encode(target: CommandTarget, tensors: MlpTensors): void {
    const tokens = expectInteger(where, "tokens", tensors.tokens, 0);
    for (const [name, isWanted] of [
      ["gate", gated],
      ["gateBias", gated && hasBias],
      ["scratch", !isOwn],
    ] as const)
      if (Boolean(isWanted) !== Boolean(tensors[name]))
        throw new ShapeError(`${where}: expected ${isWanted ? "a" : "no"} ${name}, got ${isWanted ? "none" : "one"}`);
    const weights = gated
      ? { weight: tensors.gate!, upWeight: tensors.up, bias: tensors.gateBias, upBias: tensors.upBias }
      : { weight: tensors.up, bias: tensors.upBias };
    const scratch = own ?? tensors.scratch!;
    const room = Math.floor(viewOf(scratch).byteLength / (intermediateSize * bytes));
    if (room === 0)
      throw new ShapeError(
        `${where}: expected scratch of at least one token (${intermediateSize * bytes} bytes), got ${viewOf(scratch).byteLength} bytes`,
      );
    const chunk = Math.min(chunkSize, room);
    for (let token = 0; token < tokens; token += chunk) {
      const rows = Math.min(chunk, tokens - token);
      const part = (name: string, source: BufferSource) =>
        partOf(where, name, source, token * hiddenSize * bytes, rows * hiddenSize * bytes);
      const input = part("input", tensors.input);
      const output = part("output", tensors.output);
      const sizes = { inFeatures: hiddenSize, outFeatures: intermediateSize };
      first.encode(target, { ...weights, input, output: scratch, rows, ...sizes });
      second.encode(target, {
        ...{ input: scratch, weight: tensors.down, bias: tensors.downBias, output, rows },
        ...{ inFeatures: intermediateSize, outFeatures: hiddenSize, accumulate: tensors.accumulate },
      });
    }
  }

  const destroy = () => release(own);
  return { options, scratchByteLength, encode, destroy, [Symbol.dispose]: destroy };
}
