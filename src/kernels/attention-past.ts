/** Past and new keys and values side by side: the `present` outputs of attention with a past. */
import type { BufferSource } from "../gpu/buffers.ts";
import { type CommandTarget, dispatch, spreadWorkgroups, uniforms } from "../gpu/dispatch.ts";
import { getKernel, type Kernel } from "../gpu/pipeline.ts";
import { specialize } from "../gpu/specialize.ts";
import { expectInteger } from "../shape.ts";
import type { ResolvedAttention } from "./attention-options.ts";
import { bindTensor, stridesOf } from "./attention-params.ts";
import type { AttentionTensors } from "./attention-types.ts";
import { CONCAT_KV } from "./sources.ts";

const WORKGROUP_SIZE = 64;

/** Compiles concat-kv.wgsl for a dtype. */
export function compileConcat(device: GPUDevice, resolved: ResolvedAttention): Promise<Kernel> {
  return getKernel(device, {
    label: `${CONCAT_KV.file} ${resolved.dtype}`,
    source: specialize(CONCAT_KV, { Elem: resolved.dtype, WORKGROUP_SIZE }),
    bindings: ["uniform", "read", "read", "read-write"],
  });
}

/** Writes present keys and values. @throws {ShapeError} for a buffer that is too short. */
export function encodePresent(
  device: GPUDevice,
  kernel: Kernel,
  resolved: ResolvedAttention,
  target: CommandTarget,
  tensors: AttentionTensors,
): void {
  const where = "Attention.encode";
  const past = tensors.past!;
  const { batch, kvSeqLen } = tensors;
  const { kvHeads, headDim, valueDim, layout, bytesPerElement } = resolved;
  const pastLen = expectInteger(where, "past.seqLen", past.seqLen);
  const order = past.layout ?? layout;
  const concat = (name: string, sources: [BufferSource, BufferSource, BufferSource], dim: number) => {
    const sizes = [pastLen, kvSeqLen, pastLen + kvSeqLen] as const;
    const labels = [`past ${name}`, name, `present ${name}`];
    const bound = sources.map((source, index) => {
      const tokens = sizes[index]!;
      const axes = index === 1 ? layout : order;
      const shape = axes === "bthd" ? [batch, tokens, kvHeads, dim] : [batch, kvHeads, tokens, dim];
      const tensor = bindTensor(device, where, source, { name: labels[index]!, shape, bytesPerElement });
      const { batch: perBatch, token, head } = stridesOf(axes, tokens, kvHeads, dim);
      return { binding: tensor.binding, fields: [perBatch, token, head, tensor.skip] };
    });
    const fields = [pastLen, kvSeqLen, kvHeads, dim, ...bound.flatMap((tensor) => tensor.fields), batch];
    const block = uniforms(
      device,
      fields.map((u32) => ({ u32 })),
    );
    const elements = batch * (pastLen + kvSeqLen) * kvHeads * dim;
    dispatch(device, target, {
      kernel,
      bindings: [block, ...bound.map((tensor) => tensor.binding)],
      workgroups: spreadWorkgroups(device, Math.ceil(elements / WORKGROUP_SIZE)),
    });
  };
  concat("key", [past.key, tensors.key, past.presentKey], headDim);
  concat("value", [past.value, tensors.value, past.presentValue], valueDim);
}
