/** A rank's own block on its way out: its pages are read back, as f16 where the wire asks for it, and become a parcel. */
import { OptionError } from "../errors.ts";
import type { WireConverter } from "../kernels/wire-f16.ts";
import { blockTable } from "./block-parcel.ts";
import type { KvBlock } from "./kv-block.ts";
import { formatRanges, isSamePositions, lowerBound, toRanges } from "./positions.ts";
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

/** A block as parts of a parcel, some still on their way from the GPU. */
export interface OutgoingBlock {
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
 * @param positions What is to travel, by the plan.
 * @throws {OptionError} where the block does not hold exactly that.
 */
export function readBlock(
  exit: BlockExit,
  block: KvBlock,
  owner: number,
  positions: Uint32Array<ArrayBuffer>,
  signal: AbortSignal,
): OutgoingBlock {
  const cuts = cutPages(block, positions);
  const ranges = cuts.flatMap((cut) => cut.ranges);
  if (!isSamePositions(ranges, positions))
    throw new OptionError(
      `RankAttention.attend: expected a block that holds what the plan says (place.held), ${formatRanges(toRanges(positions))}, got ${formatRanges(ranges)}`,
    );
  const bytesPerElement = exit.half ? 2 : 4;
  const table = blockTable(
    owner,
    bytesPerElement,
    cuts.map((cut) => cut.ranges),
  );
  const parts: OutgoingBlock["parts"] = [table];
  const starts: Promise<unknown>[] = [];
  let before: Promise<unknown> = Promise.resolve();
  for (const cut of cuts) {
    const start = before.then(() => {
      signal.throwIfAborted();
      return readPage(exit, cut);
    });
    before = start;
    const bytes = start.then((reading) => reading.bytes);
    // Whoever sends them sees the failure; nobody sending them is not an unhandled rejection.
    bytes.catch(() => {});
    starts.push(start);
    parts.push(bytes);
  }
  const rowBytes = (exit.keyWidth + exit.valueWidth) * bytesPerElement;
  const started = Promise.all(starts.slice(0, exit.readback.count));
  started.catch(() => {});
  return { parts, byteLength: table.byteLength + positions.length * rowBytes, started };
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
