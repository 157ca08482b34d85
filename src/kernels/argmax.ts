/** Greedy decoding on the GPU: the index of the largest logit of each row, so that 4 bytes are read back instead of all. */
import { ShapeError } from "../errors.ts";
import type { BufferSource } from "../gpu/buffers.ts";
import { alignedBinding, type CommandTarget, dispatch, spreadWorkgroups, uniforms } from "../gpu/dispatch.ts";
import { getKernel } from "../gpu/pipeline.ts";
import { specialize } from "../gpu/specialize.ts";
import { expectInteger } from "../shape.ts";
import { partOf } from "./matmul-options.ts";
import { ARGMAX } from "./sources.ts";

/** One call. R rows, V width. */
export interface ArgmaxTensors {
  /** f32 `[R, V]` */
  input: BufferSource;
  /** u32 `[R]` */
  output: BufferSource;
  rows: number;
  width: number;
}

/** A compiled argmax; see {@link createArgmax}. */
export interface Argmax {
  /** Encodes it: the first of equal numbers wins, NaN never does. @throws {ShapeError} where a tensor is too small. */
  encode(target: CommandTarget, tensors: ArgmaxTensors): void;
}

/** Compiles the argmax. */
export async function createArgmax(device: GPUDevice): Promise<Argmax> {
  const kernel = await getKernel(device, {
    label: "argmax.wgsl",
    source: specialize(ARGMAX),
    bindings: ["uniform", "read", "read-write"],
  });
  const mostBytes = device.limits.maxStorageBufferBindingSize - device.limits.minStorageBufferOffsetAlignment;

  function encode(target: CommandTarget, tensors: ArgmaxTensors): void {
    const rows = expectInteger("argmax", "rows", tensors.rows, 0);
    const width = expectInteger("argmax", "width", tensors.width);
    const most = Math.floor(mostBytes / (width * 4));
    if (most === 0) throw new ShapeError(`argmax: expected rows of at most ${mostBytes} bytes, got ${width * 4}`);
    for (let row = 0; row < rows; row += most) {
      const count = Math.min(most, rows - row);
      const part = partOf("argmax", "input", tensors.input, row * width * 4, count * width * 4);
      const input = alignedBinding(device, part);
      const output = alignedBinding(device, partOf("argmax", "output", tensors.output, row * 4, count * 4));
      const [x, y] = spreadWorkgroups(device, count);
      const sizes = [count, width, input.skipBytes / 4, output.skipBytes / 4, x].map((u32) => ({ u32 }));
      dispatch(device, target, {
        kernel,
        bindings: [uniforms(device, sizes), input.binding, output.binding],
        workgroups: [x, y],
      });
    }
  }

  return { encode };
}
