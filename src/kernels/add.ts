/** Residual add: `output[i] += input[i]`. (Matmul adds to its output by itself; this is for results made elsewhere.) */
import { ShapeError } from "../errors.ts";
import { type BufferSource, viewOf } from "../gpu/buffers.ts";
import { expectF16 } from "../gpu/device.ts";
import { alignedBinding, type CommandTarget, dispatch, spreadWorkgroups, uniforms } from "../gpu/dispatch.ts";
import { getKernel } from "../gpu/pipeline.ts";
import { specialize } from "../gpu/specialize.ts";
import { BYTES_PER_ELEMENT, type Dtype, expectInteger } from "../shape.ts";
import { partOf } from "./matmul-options.ts";
import { ADD } from "./sources.ts";

/** One call: `count` elements on both sides, in different buffers. */
export interface AddTensors {
  input: BufferSource;
  output: BufferSource;
  count: number;
}

/** A compiled add; see {@link createAdd}. */
export interface Add {
  /** Encodes `output += input`. @throws {ShapeError} where a tensor is too small, or both share a buffer. */
  encode(target: CommandTarget, tensors: AddTensors): void;
}

const WORKGROUP_SIZE = 64;

/** Compiles the add for one element type. @throws {UnsupportedDeviceError} for f16 without `shader-f16`. */
export async function createAdd(device: GPUDevice, dtype: Dtype = "f32"): Promise<Add> {
  expectF16("add", device, dtype);
  const kernel = await getKernel(device, {
    label: `add.wgsl ${dtype}`,
    source: specialize(ADD, { Elem: dtype, WORKGROUP_SIZE }),
    bindings: ["uniform", "read", "read-write"],
  });
  const bytes = BYTES_PER_ELEMENT[dtype];
  const most = Math.floor(
    (device.limits.maxStorageBufferBindingSize - device.limits.minStorageBufferOffsetAlignment) / bytes,
  );

  function encode(target: CommandTarget, tensors: AddTensors): void {
    expectInteger("add", "count", tensors.count, 0);
    if (viewOf(tensors.input).buffer === viewOf(tensors.output).buffer)
      throw new ShapeError(
        `add: expected input and output in different buffers, got "${viewOf(tensors.input).buffer.label}" for both`,
      );
    for (let first = 0; first < tensors.count; first += most) {
      const count = Math.min(most, tensors.count - first);
      const input = alignedBinding(device, partOf("add", "input", tensors.input, first * bytes, count * bytes));
      const output = alignedBinding(device, partOf("add", "output", tensors.output, first * bytes, count * bytes));
      const [x, y] = spreadWorkgroups(device, Math.ceil(count / WORKGROUP_SIZE));
      const sizes = [count, input.skipBytes / bytes, output.skipBytes / bytes, x].map((u32) => ({ u32 }));
      dispatch(device, target, {
        kernel,
        bindings: [uniforms(device, sizes), input.binding, output.binding],
        workgroups: [x, y],
      });
    }
  }

  return { encode };
}
