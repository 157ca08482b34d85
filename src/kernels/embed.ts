/** Embedding: rows of a table gathered by token id, from f32, f16 or bf16, out of tables of any size. */
import { ShapeError } from "../errors.ts";
import type { BufferSource } from "../gpu/buffers.ts";
import { expectF16 } from "../gpu/device.ts";
import { alignedBinding, type CommandTarget, dispatch, spreadWorkgroups, uniforms } from "../gpu/dispatch.ts";
import { getKernel } from "../gpu/pipeline.ts";
import { specialize } from "../gpu/specialize.ts";
import { BYTES_PER_ELEMENT, type Dtype, expectInteger, expectOneOf, type WeightDtype } from "../shape.ts";
import { partOf } from "./matmul-options.ts";
import { EMBED } from "./sources.ts";

/** What does not change between calls of an embedding. */
export interface EmbedOptions {
  /** Type of the table, as stored. */
  weightDtype: WeightDtype;
  /** Type of the output. Default "f32". */
  dtype?: Dtype;
  label?: string;
}

/** One call. T tokens, V vocabSize, C width. */
export interface EmbedTensors {
  /** `[V, C]` */
  table: BufferSource;
  /** u32 `[T]`. An id of V or more leaves its row of the output as it was: check ids on the host. */
  ids: BufferSource;
  /** `[T, C]` */
  output: BufferSource;
  tokens: number;
  vocabSize: number;
  width: number;
}

/** A compiled embedding; see {@link createEmbed}. */
export interface Embed {
  /** Encodes the gather. @throws {ShapeError} where a tensor is too small. */
  encode(target: CommandTarget, tensors: EmbedTensors): void;
}

const WORKGROUP_SIZE = 64;

/**
 * Compiles the gather. A table larger than one binding is met part by part, one dispatch each.
 * @throws {OptionError} for an unknown dtype. @throws {UnsupportedDeviceError} for f16 output without `shader-f16`.
 */
export async function createEmbed(device: GPUDevice, options: EmbedOptions): Promise<Embed> {
  const where = options.label ? `embed("${options.label}")` : "embed";
  const weightDtype = expectOneOf(where, "weightDtype", options.weightDtype, ["f32", "f16", "bf16"]);
  const dtype = expectOneOf(where, "dtype", options.dtype ?? "f32", ["f32", "f16"]);
  expectF16(where, device, dtype);
  const kernel = await getKernel(device, {
    label: `embed.wgsl ${weightDtype}`,
    source: specialize(EMBED, {
      OutputElem: dtype,
      WORKGROUP_SIZE,
      WEIGHT_FORMAT: { f32: 0, f16: 1, bf16: 2 }[weightDtype],
    }),
    bindings: ["uniform", "read", "read", "read-write"],
  });
  const bytes = BYTES_PER_ELEMENT[dtype];
  const weightBytes = BYTES_PER_ELEMENT[weightDtype];
  const mostBytes = device.limits.maxStorageBufferBindingSize - device.limits.minStorageBufferOffsetAlignment;

  function encode(target: CommandTarget, tensors: EmbedTensors): void {
    const tokens = expectInteger(where, "tokens", tensors.tokens, 0);
    const vocabSize = expectInteger(where, "vocabSize", tensors.vocabSize);
    const width = expectInteger(where, "width", tensors.width);
    const mostTokens = Math.floor(mostBytes / (width * bytes));
    const mostRows = Math.floor(mostBytes / (width * weightBytes));
    if (Math.min(mostTokens, mostRows) === 0)
      throw new ShapeError(
        `${where}: expected rows of at most ${mostBytes} bytes (a binding's limit), got ${width} elements`,
      );
    for (let token = 0; token < tokens; token += mostTokens)
      for (let row = 0; row < vocabSize; row += mostRows) {
        const count = Math.min(mostTokens, tokens - token);
        const rows = Math.min(mostRows, vocabSize - row);
        const part = (name: string, source: BufferSource, first: number, length: number, size: number) =>
          alignedBinding(device, partOf(where, name, source, first * size, length * size));
        const table = part("table", tensors.table, row * width, rows * width, weightBytes);
        const ids = part("ids", tensors.ids, token, count, 4);
        const output = part("output", tensors.output, token * width, count * width, bytes);
        const [x, y] = spreadWorkgroups(device, Math.ceil((count * width) / WORKGROUP_SIZE));
        const sizes = [
          ...[count, width, row, rows],
          ...[table.skipBytes / weightBytes, ids.skipBytes / 4, output.skipBytes / bytes, x],
        ].map((u32) => ({ u32 }));
        dispatch(device, target, {
          kernel,
          bindings: [uniforms(device, sizes), table.binding, ids.binding, output.binding],
          workgroups: [x, y],
        });
      }
  }

  return { encode };
}
