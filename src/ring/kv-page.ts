/**
 * Pages: the pieces that a K/V block consists of. A page is what one dispatch meets, in GPU memory or waiting in host
 * memory for its turn in a staging buffer.
 */
import type { BufferSource } from "../gpu/buffers.ts";
import { write } from "../gpu/buffers.ts";
import type { TokenPositions } from "../kernels/attention-types.ts";
import type { TokenRange } from "./types.ts";

/** What both kinds of page tell without being read. */
interface PageTokens {
  /** Tokens that are filled. */
  readonly count: number;
  /** Smallest and largest position held; meaningless while `count` is 0. */
  readonly minPosition: number;
  readonly maxPosition: number;
  /** u32 `[B, count]` on the GPU, where the ring was made with `hasSegments`. */
  readonly segments?: BufferSource;
}

/** A page that kernels can bind. */
export interface GpuPage extends PageTokens {
  readonly memory: "gpu";
  /** `[B, capacity, K, D]` */
  readonly key: BufferSource;
  /** `[B, capacity, K, E]` */
  readonly value: BufferSource;
  /** Tokens that strides are made of. */
  readonly capacity: number;
  readonly positions: TokenPositions;
}

/** A page of a block in GPU memory, with its positions on the host. */
export interface BlockPage extends GpuPage {
  readonly key: GPUBuffer;
  readonly value: GPUBuffer;
  /** Position of every row, ascending; a view. */
  readonly positionList: Uint32Array<ArrayBuffer>;
}

/** A page in host memory. */
export interface HostPage extends PageTokens {
  readonly memory: "host";
  /** Rows are f16 and widened to the ring's f32 on the GPU (K/V that came over a wire). */
  readonly isHalf?: boolean;
  readonly key: HostRows;
  readonly value: HostRows;
  /** Positions as start and stride, or one by one. */
  readonly positions: { start: number; stride: number } | Uint32Array<ArrayBuffer>;
  /** Resolves when the bytes are there (they may still be on their way from the GPU). */
  readonly ready: Promise<void>;
}

/** A page of a block. */
export type KvPage = GpuPage | HostPage;

/** A rank's K/V as it travels the ring. */
export interface RingBlock {
  /** The rank that owns it. */
  readonly kvRank: number;
  readonly tokenCount: number;
  readonly pages: readonly KvPage[];
  /** How it came, where it came over a link. */
  readonly arrival?: { transferMs: number; receivedBytes: number };
}

/** Rows of one page within host memory: `[B, count]` rows of `rowBytes`, evenly spaced. */
export interface HostRows {
  bytes: Uint8Array<ArrayBuffer>;
  byteOffset: number;
  batch: number;
  count: number;
  rowBytes: number;
  /** Bytes from a batch entry's first row to the next one's. */
  batchBytes: number;
  /** Bytes from a row to the next. */
  strideBytes: number;
}

/** Writes the rows, packed `[B, count, rowBytes]`, to a buffer on the GPU. */
export function writeRows(device: GPUDevice, buffer: GPUBuffer, byteOffset: number, rows: HostRows): void {
  const { bytes, batch, count, rowBytes, batchBytes, strideBytes } = rows;
  const batchLength = count * rowBytes;
  if (strideBytes === rowBytes && (batch === 1 || batchLength % 4 === 0)) {
    for (let b = 0; b < batch; b++)
      write(
        device,
        buffer,
        byteOffset + b * batchLength,
        bytes.subarray(rows.byteOffset + b * batchBytes, rows.byteOffset + b * batchBytes + batchLength),
      );
    return;
  }
  const packed = new Uint8Array(batch * batchLength);
  for (let b = 0; b < batch; b++)
    for (let i = 0; i < count; i++) {
      const from = rows.byteOffset + b * batchBytes + i * strideBytes;
      packed.set(bytes.subarray(from, from + rowBytes), b * batchLength + i * rowBytes);
    }
  write(device, buffer, byteOffset, packed);
}

/** Ascending positions, kept on the host; knows whether a start and a stride say it all. */
export class PositionList {
  count = 0;
  private stride = 1;
  /** First token that start and stride do not tell. */
  private unevenAt = Number.POSITIVE_INFINITY;
  private readonly list: Uint32Array<ArrayBuffer>;

  constructor(readonly capacity: number) {
    this.list = new Uint32Array(capacity);
  }

  get minPosition(): number {
    return this.list[0]!;
  }

  get maxPosition(): number {
    return this.list[this.count - 1]!;
  }

  /** The list as start and stride, where that is all there is to it. */
  get affine(): { start: number; stride: number } | undefined {
    return this.unevenAt < this.count ? undefined : { start: this.minPosition, stride: this.stride };
  }

  /** Adds positions, which must fit. */
  push({ start, stride, count }: TokenRange): void {
    for (let i = 0; i < count; i++) {
      const position = start + i * stride;
      if (this.count === 1) this.stride = position - this.minPosition;
      else if (this.count > 1 && position - this.maxPosition !== this.stride && this.unevenAt > this.count)
        this.unevenAt = this.count;
      this.list[this.count++] = position;
    }
  }

  /** Positions of tokens `from` onwards; a view. */
  since(from: number): Uint32Array<ArrayBuffer> {
    return this.list.subarray(from, this.count);
  }

  /** Forgets all positions from the `count`th on. */
  truncate(count: number): void {
    this.count = Math.min(this.count, count);
    if (this.count < 2) this.stride = 1;
    if (this.unevenAt >= this.count) this.unevenAt = Number.POSITIVE_INFINITY;
  }

  clear(): void {
    this.truncate(0);
  }
}
