/**
 * A K/V block as a parcel: a table of its pages (which positions, in which order), then page after page its key rows and
 * its value rows. All words are u32, little endian:
 *
 *     MAGIC, owner, bytes per element (4: f32, 2: f16), page count; per page: range count, (start, stride, count) each
 *
 * Everything in it is known from the plan but the cut into pages and their order, so whatever contradicts the plan is a
 * violation: nothing of what comes is believed.
 */
import { LinkError } from "../errors.ts";
import type { HostPage, HostRows, RingBlock } from "./kv-page.ts";
import { formatRanges, isSamePositions, listPositions, MAX_POSITION, toRanges } from "./positions.ts";
import { lastPosition, tokenCount } from "./shard.ts";
import type { TokenRange } from "./types.ts";

const MAGIC = 0x314b5652; // "RVK1"
const HEADER_WORDS = 4;
const RANGE_WORDS = 3;

/** What is known of a block before it comes. */
export interface ExpectedBlock {
  owner: number;
  /** Ascending. */
  positions: Uint32Array<ArrayBuffer>;
  /** K * D and K * E. */
  keyWidth: number;
  valueWidth: number;
  bytesPerElement: 2 | 4;
}

/** The table of a block. @param pages Positions of each page, ascending, in the order of their rows. */
export function blockTable(
  owner: number,
  bytesPerElement: 2 | 4,
  pages: readonly (readonly TokenRange[])[],
): Uint8Array<ArrayBuffer> {
  const words = [MAGIC, owner, bytesPerElement, pages.length];
  for (const ranges of pages) {
    words.push(ranges.length);
    for (const { start, stride, count } of ranges) words.push(start, stride, count);
  }
  const bytes = new Uint8Array(words.length * 4);
  const view = new DataView(bytes.buffer);
  for (const [index, word] of words.entries()) view.setUint32(index * 4, word, true);
  return bytes;
}

const rowBytes = ({ keyWidth, valueWidth, bytesPerElement }: ExpectedBlock) =>
  (keyWidth + valueWidth) * bytesPerElement;

/** Most bytes that a block may take: each token in a page and a range of its own. */
export const mostBlockBytes = (expected: ExpectedBlock): number =>
  (HEADER_WORDS + expected.positions.length * (1 + RANGE_WORDS)) * 4 + expected.positions.length * rowBytes(expected);

/** Reads a table word by word; past its end, or past what the plan allows, is a violation. */
class TableReader {
  private at = 0;
  private readonly view: DataView;

  constructor(
    bytes: Uint8Array<ArrayBuffer>,
    private readonly refuse: (expected: string, got: string) => never,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get byteOffset(): number {
    return this.at;
  }

  next(name: string, min: number, max: number): number {
    if (this.at + 4 > this.view.byteLength) this.refuse(`${name} in its table`, `${this.view.byteLength} bytes`);
    const word = this.view.getUint32(this.at, true);
    this.at += 4;
    if (word < min || word > max) this.refuse(`${name} of ${min}${min === max ? "" : ` to ${max}`}`, String(word));
    return word;
  }
}

/** The table's pages. */
function readTable(reader: TableReader, expected: ExpectedBlock, refuse: (expected: string, got: string) => never) {
  const { owner, bytesPerElement, positions } = expected;
  reader.next("the mark of a block", MAGIC, MAGIC);
  reader.next("owner", owner, owner);
  reader.next("bytes per element", bytesPerElement, bytesPerElement);
  const pages: TokenRange[][] = [];
  const pageCount = reader.next("pages", 0, positions.length);
  let left = positions.length;
  for (let page = 0; page < pageCount; page++) {
    const ranges: TokenRange[] = [];
    const rangeCount = reader.next("ranges of a page", 1, Math.max(1, left));
    let last = -1;
    for (let i = 0; i < rangeCount; i++) {
      const start = reader.next("ascending positions", last + 1, MAX_POSITION);
      const stride = reader.next("stride", 1, MAX_POSITION);
      const count = reader.next("tokens", 1, left);
      const range = { start, stride, count };
      last = lastPosition(range);
      if (last > MAX_POSITION) refuse(`positions up to ${MAX_POSITION}`, String(last));
      left -= count;
      ranges.push(range);
    }
    pages.push(ranges);
  }
  return pages;
}

/**
 * The block in a parcel, as pages in host memory of at most `pageSize` tokens; they share the parcel's bytes.
 * @param from Who sent it, for messages.
 * @throws {LinkError} "violation", where it is not the block that the plan says.
 */
export function parseBlock(
  bytes: Uint8Array<ArrayBuffer>,
  expected: ExpectedBlock,
  pageSize: number,
  from: string,
): Omit<RingBlock, "arrival"> {
  const { owner, positions, bytesPerElement } = expected;
  const refuse = (wanted: string, got: string): never => {
    throw new LinkError(
      `attend: expected the block of rank ${owner} from ${from} with ${wanted}, got ${got}`,
      "violation",
    );
  };
  const reader = new TableReader(bytes, refuse);
  const tables = readTable(reader, expected, refuse);
  const all = tables.flat();
  if (!isSamePositions(all, positions)) refuse(formatRanges(toRanges(positions)), formatRanges(all));
  const size = reader.byteOffset + positions.length * rowBytes(expected);
  if (bytes.byteLength !== size) refuse(`${size} bytes`, `${bytes.byteLength} bytes`);
  const pages: HostPage[] = [];
  let at = reader.byteOffset;
  for (const ranges of tables) {
    const count = tokenCount(ranges);
    const list = listPositions(ranges);
    const keyRow = expected.keyWidth * bytesPerElement;
    const valueRow = expected.valueWidth * bytesPerElement;
    for (let first = 0; first < count; first += pageSize) {
      const part = list.subarray(first, first + pageSize);
      const affine = toRanges(part);
      const rows = (byteOffset: number, rowLength: number): HostRows => ({
        ...{ bytes, byteOffset: byteOffset + first * rowLength, batch: 1, count: part.length },
        ...{ rowBytes: rowLength, batchBytes: 0, strideBytes: rowLength },
      });
      pages.push({
        ...{ memory: "host", isHalf: bytesPerElement === 2, count: part.length, ready: Promise.resolve() },
        ...{ minPosition: part[0]!, maxPosition: part.at(-1)! },
        positions: affine.length === 1 ? { start: affine[0]!.start, stride: affine[0]!.stride } : part.slice(),
        key: rows(at, keyRow),
        value: rows(at + count * keyRow, valueRow),
      });
    }
    at += count * (keyRow + valueRow);
  }
  return { kvRank: owner, tokenCount: positions.length, pages };
}
