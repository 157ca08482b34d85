/** Cutting a call into pieces that fit a binding: pure arithmetic. */
import { OptionError } from "../errors.ts";
import type { AttentionCall, AttentionPiece, CallTensor } from "./attention-call.ts";
import { extentOf } from "./attention-call.ts";

/** What limits a piece. */
export interface PieceLimits {
  /** Bytes of one binding. */
  bindingBytes: number;
  /** Query tokens of all batch entries together at most. */
  seqLen?: number;
  /** Keys at most. */
  kvLen?: number;
}

/** Bindings begin at multiples of 256 bytes, up to 255 before the data. */
const ALIGNMENT_BYTES = 256;

function fits(tensor: CallTensor | undefined, piece: AttentionPiece, start: number, tokens: number, limit: number) {
  if (!tensor) return true;
  return extentOf(tensor, piece, start, tokens).elements * tensor.bytesPerElement + ALIGNMENT_BYTES <= limit;
}

/** Tokens of a tensor that fit, in a piece of one batch entry. */
function tokensThatFit(
  where: string,
  tensor: CallTensor,
  piece: AttentionPiece,
  tokens: number,
  limit: number,
): number {
  if (fits(tensor, piece, 0, tokens, limit)) return tokens;
  const one = extentOf(tensor, piece, 0, 1).elements * tensor.bytesPerElement;
  const count = 1 + Math.floor((limit - ALIGNMENT_BYTES - one) / (tensor.strides.token * tensor.bytesPerElement));
  if (count >= 1) return count;
  throw new OptionError(`${where}: one token of ${tensor.name} takes ${one} bytes, and one binding holds ${limit}`);
}

const runs = (count: number, size: number): [start: number, length: number][] =>
  Array.from({ length: Math.ceil(count / size) }, (_, i) => [i * size, Math.min(size, count - i * size)]);

/** A run of queries of a call, with the key blocks that it meets. */
export interface QueryPiece {
  /** All pieces differ in kvStart and kvLen only. */
  blocks: AttentionPiece[];
}

/**
 * The call as pieces: whole where everything fits; else batch entry by batch entry, head by head where the heads of one
 * entry are not contiguous, and runs of tokens.
 * @throws {OptionError} where not even one token fits.
 */
export function cutCall(call: AttentionCall, kvHeads: number, limits: PieceLimits): QueryPiece[] {
  const { batch, seqLen, kvLen, where } = call;
  const queries = [call.query, call.output].filter((tensor) => tensor !== undefined);
  const keys = [call.key, call.value];
  const limit = limits.bindingBytes;
  const whole: AttentionPiece = {
    ...{ batchStart: 0, batch, headStart: 0, kvHeads, queryStart: 0, seqLen, kvStart: 0, kvLen },
  };
  const fitsWhole = (piece: AttentionPiece) =>
    queries.every((tensor) => fits(tensor, piece, 0, seqLen, limit)) &&
    keys.every((tensor) => fits(tensor, piece, 0, kvLen, limit));
  const isUncut = (limits.seqLen ?? batch * seqLen) >= batch * seqLen && (limits.kvLen ?? kvLen) >= kvLen;
  if (isUncut && fitsWhole(whole)) return [{ blocks: [whole] }];
  const pieces: QueryPiece[] = [];
  for (let batchStart = 0; batchStart < batch; batchStart++) {
    const entry: AttentionPiece = { ...whole, batchStart, batch: 1 };
    const isContiguous = [...queries, ...keys].every(({ strides }) => strides.token >= strides.head);
    const isHeadByHead = !isContiguous && !fitsWhole(entry);
    for (const [headStart, count] of runs(kvHeads, isHeadByHead ? 1 : kvHeads)) {
      const piece = { ...entry, headStart, kvHeads: count };
      const most = (tensors: CallTensor[], tokens: number, cap: number | undefined) =>
        Math.min(cap ?? tokens, ...tensors.map((tensor) => tokensThatFit(where, tensor, piece, tokens, limit)));
      const queryRuns = runs(seqLen, most(queries, seqLen, limits.seqLen));
      const kvRuns = runs(kvLen, most(keys, kvLen, limits.kvLen));
      for (const [queryStart, queryCount] of queryRuns)
        pieces.push({
          blocks: kvRuns.map(([kvStart, kvCount]) => ({
            ...{ ...piece, queryStart, seqLen: queryCount, kvStart, kvLen: kvCount },
          })),
        });
    }
  }
  return pieces;
}
