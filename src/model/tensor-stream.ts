/** Tensors as a stream of pieces: read in file order, many small tensors at once, large ones in slices. */
import { expectInteger } from "../shape.ts";
import type { StoredTensor } from "./safetensors.ts";
import type { ModelFiles } from "./types.ts";

/** Bytes of one read: large enough for a network's round trips not to count, small enough to show progress. */
export const READ_BYTE_LENGTH = 8 * 2 ** 20;

/** Tensors are cut at multiples of this: whole elements, whose halves (f32 made f16) still are the 4 bytes writeBuffer wants. */
const CUT_BYTE_LENGTH = 8;

/** A slice of one tensor. Pieces of a tensor come in order and together are the whole of it. */
export interface TensorPiece {
  tensor: StoredTensor;
  /** Where in the tensor, in bytes; a multiple of 8. */
  byteOffset: number;
  bytes: Uint8Array<ArrayBuffer>;
  /** The tensor is complete with this piece. */
  isLast: boolean;
}

interface PlannedRead {
  path: string;
  start: number;
  end: number;
  slices: { tensor: StoredTensor; start: number; end: number }[];
}

/** Slices tensors so that none crosses a read, and puts neighbours into one read. */
function planReads(tensors: readonly StoredTensor[], readByteLength: number): PlannedRead[] {
  const reads: PlannedRead[] = [];
  for (const tensor of tensors) {
    // An empty tensor has one empty slice, so that it appears in the stream.
    for (let start = tensor.start, isFirst = true; start < tensor.end || isFirst; isFirst = false) {
      let read = reads.at(-1);
      // The next read also begins where there is hardly any room left.
      const room = read && read.path === tensor.path && read.end === start ? readByteLength - (start - read.start) : 0;
      if (!read || room < CUT_BYTE_LENGTH) reads.push((read = { path: tensor.path, start, end: start, slices: [] }));
      const most = Math.floor((readByteLength - (start - read.start)) / CUT_BYTE_LENGTH) * CUT_BYTE_LENGTH;
      const end = Math.min(tensor.end, start + most);
      read.slices.push({ tensor, start, end });
      read.end = end;
      start = end;
    }
  }
  return reads;
}

/**
 * Streams tensors piece by piece, one read ahead of the consumer: at most two reads are in memory at a time.
 * @param tensors In the order in which they are wanted; file order makes every read sequential.
 * @param options readByteLength: bytes of one read, 64 or more, default 8 MiB.
 * @throws {OptionError} @throws {ModelSourceError} where a file cannot be read whole. Abort rejects with `signal.reason`.
 */
export async function* streamTensors(
  files: ModelFiles,
  tensors: readonly StoredTensor[],
  options: { readByteLength?: number; signal?: AbortSignal } = {},
): AsyncGenerator<TensorPiece, void, undefined> {
  const { signal } = options;
  const readByteLength = options.readByteLength ?? READ_BYTE_LENGTH;
  const reads = planReads(tensors, expectInteger("streamTensors", "readByteLength", readByteLength, 64));
  // The read ahead must stop when the consumer does.
  const stop = new AbortController();
  const both = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
  const begin = (index: number) => {
    const read = reads[index];
    if (!read) return undefined;
    const promise =
      read.end === read.start
        ? Promise.resolve(new Uint8Array(0))
        : files.read(read.path, { start: read.start, end: read.end }, both);
    // A failure counts when the read's turn comes, not as an unhandled rejection before.
    promise.catch(() => {});
    return promise;
  };
  try {
    let ahead = begin(0);
    for (let index = 0; index < reads.length; index++) {
      const read = reads[index]!;
      signal?.throwIfAborted();
      const bytes = await ahead!;
      signal?.throwIfAborted();
      ahead = begin(index + 1);
      for (const { tensor, start, end } of read.slices)
        yield {
          tensor,
          byteOffset: start - tensor.start,
          bytes: bytes.subarray(start - read.start, end - read.start),
          isLast: end === tensor.end,
        };
    }
  } finally {
    stop.abort();
  }
}

/** Bytes of a tensor as it is stored. */
export const storedByteLength = (tensor: StoredTensor): number => tensor.end - tensor.start;
