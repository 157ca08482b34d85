/** Past and new keys and values side by side: the `present` outputs of attention with a past. */
import { type BufferSource, viewOf } from "../gpu/buffers.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import type { AttentionLayout } from "../shape.ts";
import { expectRoom } from "./attention-call.ts";
import type { ResolvedAttention } from "./attention-options.ts";
import { type Strides, stridesOf } from "./attention-params.ts";
import type { AttentionTensors } from "./attention-types.ts";
import type { CopyStrides, TokenCopier } from "./copy-tokens.ts";

/** One side of a copy: a tensor `[B, tokens, K, dim]` in its layout. */
interface Side {
  source: BufferSource;
  layout: AttentionLayout;
  tokens: number;
}

/**
 * Writes present keys and values, after every tensor was checked. Tensors of any size: the copier cuts what one binding does
 * not hold. @throws {ShapeError} for a buffer that is missing or too short.
 */
export function encodePresent(
  copier: TokenCopier,
  resolved: ResolvedAttention,
  target: CommandTarget,
  tensors: AttentionTensors,
): void {
  const where = "Attention.encode";
  const past = tensors.past!;
  const { batch, kvSeqLen } = tensors;
  const { kvHeads, headDim, valueDim, layout, bytesPerElement } = resolved;
  const order = past.layout ?? layout;

  const prepare = (name: string, dim: number, before: BufferSource, after: BufferSource, present: BufferSource) => {
    const check = (label: string, source: BufferSource, axes: AttentionLayout, tokens: number): Side => {
      const shape = axes === "bthd" ? [batch, tokens, kvHeads, dim] : [batch, kvHeads, tokens, dim];
      const elements = batch * tokens * kvHeads * dim;
      expectRoom(where, { name: label, source, bytesPerElement }, shape, elements, 1);
      return { source, layout: axes, tokens };
    };
    const from = [check(`past ${name}`, before, order, past.seqLen), check(name, after, layout, kvSeqLen)] as const;
    return { dim, from, to: check(`present ${name}`, present, order, past.seqLen + kvSeqLen) };
  };
  const all = [
    prepare("key", headDim, past.key, tensors.key, past.presentKey),
    prepare("value", valueDim, past.value, tensors.value, past.presentValue),
  ];
  for (const { dim, from, to } of all) {
    let firstToken = 0;
    for (const side of from) {
      const source = stridesOf(side.layout, side.tokens, kvHeads, dim);
      const goal = stridesOf(to.layout, to.tokens, kvHeads, dim);
      const perHead = ({ head, token }: Strides): CopyStrides => ({ outer: head, token });
      for (let b = 0; b < batch; b++)
        copier.encode(target, {
          source: viewFrom(side.source, b * source.batch * bytesPerElement),
          sourceStrides: perHead(source),
          target: viewFrom(to.source, (b * goal.batch + firstToken * goal.token) * bytesPerElement),
          targetStrides: perHead(goal),
          ...{ outer: kvHeads, tokens: side.tokens, width: dim },
        });
      firstToken += side.tokens;
    }
  }
}

/** The view from `byteOffset` bytes on. */
function viewFrom(source: BufferSource, byteOffset: number): BufferSource {
  const view = viewOf(source);
  return { buffer: view.buffer, byteOffset: view.byteOffset + byteOffset };
}
