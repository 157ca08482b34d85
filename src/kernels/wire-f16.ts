/** K/V between f32 and f16, for the wire: halves are packed two to a word, which needs no `shader-f16`. */
import type { BufferSource } from "../gpu/buffers.ts";
import { alignedBinding, type CommandTarget, dispatch, spreadWorkgroups, uniforms } from "../gpu/dispatch.ts";
import { getKernel } from "../gpu/pipeline.ts";
import { specialize } from "../gpu/specialize.ts";
import { expectInteger } from "../shape.ts";
import { partOf } from "./matmul-options.ts";
import { WIRE_F16 } from "./sources.ts";

/** One conversion of `count` elements; source and target are different buffers. */
export interface WireTensors {
  source: BufferSource;
  target: BufferSource;
  count: number;
}

/** Compiled conversions; see {@link createWireConverter}. */
export interface WireConverter {
  /** f32 -> f16, rounded to nearest and held within what f16 can say (+-65504). @throws {ShapeError} */
  encodeHalve(target: CommandTarget, tensors: WireTensors): void;
  /** f16 -> f32, exact. @throws {ShapeError} */
  encodeWiden(target: CommandTarget, tensors: WireTensors): void;
}

const WORKGROUP_SIZE = 64;

/** Compiles both directions. */
export async function createWireConverter(device: GPUDevice): Promise<WireConverter> {
  const [halve, widen] = await Promise.all(
    [false, true].map((WIDEN) =>
      getKernel(device, {
        label: `wire-f16.wgsl ${WIDEN ? "widen" : "halve"}`,
        source: specialize(WIRE_F16, { WIDEN, WORKGROUP_SIZE }),
        bindings: ["uniform", "read", "read-write"],
      }),
    ),
  );
  // Even, so that a cut never falls within a word.
  const most = Math.floor((device.limits.maxStorageBufferBindingSize - 512) / 8) * 2;

  function encode(target: CommandTarget, tensors: WireTensors, isWiden: boolean): void {
    const where = isWiden ? "encodeWiden" : "encodeHalve";
    const count = expectInteger(where, "count", tensors.count, 0);
    for (let first = 0; first < count; first += most) {
      const part = Math.min(most, count - first);
      const words = Math.ceil(part / 2);
      const bind = (name: "source" | "target", isHalf: boolean) =>
        isHalf
          ? alignedBinding(device, partOf(where, name, tensors[name], first * 2, words * 4))
          : alignedBinding(device, partOf(where, name, tensors[name], first * 4, part * 4));
      const from = bind("source", isWiden);
      const to = bind("target", !isWiden);
      const [x, y] = spreadWorkgroups(device, Math.ceil(words / WORKGROUP_SIZE));
      const sizes = [part, from.skipBytes / 4, to.skipBytes / 4, x].map((u32) => ({ u32 }));
      dispatch(device, target, {
        kernel: isWiden ? widen! : halve!,
        bindings: [uniforms(device, sizes), from.binding, to.binding],
        workgroups: [x, y],
      });
    }
  }

  return {
    encodeHalve: (target, tensors) => encode(target, tensors, false),
    encodeWiden: (target, tensors) => encode(target, tensors, true),
  };
}
