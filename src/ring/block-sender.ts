/** A rank's own block on its way out: its pages are read back, as f16 where the wire asks for it, and become a parcel. */
import type { BufferView } from "../gpu/buffers.ts";
import type { WireConverter } from "../kernels/wire-f16.ts";
import { blockTable } from "./block-parcel.ts";
import type { KvBlock } from "./kv-block.ts";
import { lowerBound, toRanges } from "./positions.ts";
import type { Readback } from "./readback.ts";
import { tokenCount } from "./shard.ts";
import type { TokenRange } from "./types.ts";

/** Rows of a page that travel: those at the positions that others may see. */
interface PageCut {
  key: GPUBuffer;
  value: GPUBuffer;
  row: number;
  ranges: TokenRange[];
}

/** How blocks leave the GPU. */
export interface BlockExit {
  readback: Readback;
  /** K * D and K * E. */
  keyWidth: number;
  valueWidth: number;
  /** Given: K/V travel as f16, by way of `scratch`, which holds a page of them. */
  half?: { converter: WireConverter; scratch: GPUBuffer };
}

/** Parts of a parcel, some still on their way from the GPU. */
export interface Outgoing {
  parts: (Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>)[];
  byteLength: number;
  /** Resolves when as many copies are submitted as there are readback buffers: compute submitted later does not delay them. */
  started: Promise<unknown>;
}

/** The block's pages, cut to these positions (ascending). */
function cutPages(block: KvBlock, positions: Uint32Array<ArrayBuffer>): PageCut[] {
  const [first, last] = [positions[0]!, positions.at(-1)!];
  return block.gpuPages.flatMap((page) => {
    const list = page.positionList;
    const row = lowerBound(list, first);
    const ranges = toRanges(list.subarray(row, lowerBound(list, last + 1)));
    return ranges.length > 0 ? [{ key: page.key, value: page.value, row, ranges }] : [];
  });
}

/**
 * Begins to read a block back.
 * @param positions What is to travel, ascending: all that the block holds between the first and the last of them.
 */
export function readBlock(
  exit: BlockExit,
  block: KvBlock,
  owner: number,
  positions: Uint32Array<ArrayBuffer>,
  signal: AbortSignal,
): Outgoing {
  const cuts = cutPages(block, positions);
  const bytesPerElement = exit.half ? 2 : 4;
  const table = blockTable(
    owner,
    bytesPerElement,
    cuts.map((cut) => cut.ranges),
  );
  const { bytes, started } = readInTurn(
    exit.readback,
    cuts.map((cut) => () => readPage(exit, cut)),
    signal,
  );
  const rowBytes = (exit.keyWidth + exit.valueWidth) * bytesPerElement;
  return { parts: [table, ...bytes], byteLength: table.byteLength + positions.length * rowBytes, started };
}

/** Reads parts of GPU buffers back. `submitted` resolves when they may be written over by later commands. */
export function readViews(
  readback: Readback,
  views: readonly Required<BufferView>[],
  signal: AbortSignal,
): Omit<Outgoing, "byteLength"> & { submitted: Promise<unknown> } {
  const cuts = views.flatMap(({ buffer, byteOffset, byteLength }) =>
    Array.from({ length: Math.ceil(byteLength / readback.byteLength) }, (_, index) => ({
      buffer,
      byteOffset: byteOffset + index * readback.byteLength,
      byteLength: Math.min(readback.byteLength, byteLength - index * readback.byteLength),
    })),
  );
  const { bytes, started, submitted } = readInTurn(
    readback,
    cuts.map((cut) => () => readback.start([cut])),
    signal,
  );
  return { parts: bytes, started, submitted };
}

/** Submits one copy after the other, as buffers for them are free. */
function readInTurn(
  readback: Readback,
  copies: readonly (() => Promise<{ bytes: Promise<Uint8Array<ArrayBuffer>> }>)[],
  signal: AbortSignal,
) {
  const starts: Promise<unknown>[] = [];
  const bytes: Promise<Uint8Array<ArrayBuffer>>[] = [];
  let before: Promise<unknown> = Promise.resolve();
  for (const copy of copies) {
    const start = before.then(() => {
      signal.throwIfAborted();
      return copy();
    });
    before = start;
    const part = start.then((reading) => reading.bytes);
    // Whoever sends them sees the failure; nobody sending them is not an unhandled rejection.
    part.catch(() => {});
    starts.push(start);
    bytes.push(part);
  }
  const started = Promise.all(starts.slice(0, readback.count));
  started.catch(() => {});
  const submitted = Promise.all(starts);
  submitted.catch(() => {});
  return { bytes, started, submitted };
}

/** Submits the copy of one page; `bytes`: its keys, then its values, packed. */
async function readPage(exit: BlockExit, cut: PageCut): Promise<{ bytes: Promise<Uint8Array<ArrayBuffer>> }> {
  const { readback, keyWidth, valueWidth, half } = exit;
  const count = tokenCount(cut.ranges);
  const [keys, values] = [count * keyWidth, count * valueWidth];
  if (!half)
    return readback.start([
      { buffer: cut.key, byteOffset: cut.row * keyWidth * 4, byteLength: keys * 4 },
      { buffer: cut.value, byteOffset: cut.row * valueWidth * 4, byteLength: values * 4 },
    ]);
  // Two halves to a word: an odd number of them leaves half a word over, which does not travel.
  const words = (elements: number) => Math.ceil(elements / 2) * 4;
  const valuesAt = Math.ceil(words(keys) / 256) * 256;
  const { converter, scratch } = half;
  const { bytes } = await readback.start(
    [
      { buffer: scratch, byteLength: words(keys) },
      { buffer: scratch, byteOffset: valuesAt, byteLength: words(values) },
    ],
    (encoder) => {
      const [key, value] = [
        { buffer: cut.key, byteOffset: cut.row * keyWidth * 4 },
        { buffer: cut.value, byteOffset: cut.row * valueWidth * 4 },
      ];
      converter.encodeHalve(encoder, { source: key, target: scratch, count: keys });
      converter.encodeHalve(encoder, {
        source: value,
        target: { buffer: scratch, byteOffset: valuesAt },
        count: values,
      });
    },
  );
  return { bytes: bytes.then((all) => packHalves(all, keys * 2, words(keys), values * 2)) };
}

/** Closes the gap that an odd number of halves leaves behind the keys. */
function packHalves(
  all: Uint8Array<ArrayBuffer>,
  keyBytes: number,
  valuesAt: number,
  valueBytes: number,
): Uint8Array<ArrayBuffer> {
  if (valuesAt > keyBytes) all.copyWithin(keyBytes, valuesAt, valuesAt + valueBytes);
  return all.subarray(0, keyBytes + valueBytes);
}
