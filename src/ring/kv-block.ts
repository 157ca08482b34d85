/**
 * The K/V that one rank owns. It grows page by page: nothing is reallocated or moved, so a step of decoding costs the same
 * however long the context. In host memory only the page that is being filled is on the GPU; full ones go to the host.
 */
import { DestroyedError, OptionError } from "../errors.ts";
import { allocateAll, type BufferSource, release, viewOf } from "../gpu/buffers.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import type { MemoryLedger } from "../gpu/ledger.ts";
import type { TokenPositions } from "../kernels/attention-types.ts";
import type { TokenCopier } from "../kernels/copy-tokens.ts";
import { BYTES_PER_ELEMENT, type Dtype } from "../shape.ts";
import { type GpuPage, type HostPage, type KvPage, PositionList, type RingBlock } from "./kv-page.ts";
import type { Readback } from "./readback.ts";
import { tokenCount } from "./shard.ts";
import type { BlockMemory, TokenRange } from "./types.ts";

/** What all blocks of a ring have in common. */
export interface KvBlockSettings {
  device: GPUDevice;
  copier: TokenCopier;
  memory: BlockMemory;
  /** Where the bytes are entered besides the device's own ledger. */
  ledger?: MemoryLedger;
  /** Needed where `memory` is "host". */
  readback?: Readback;
  /** Tokens per page. */
  pageSize: number;
  /** Sliding window: what no later query can see is forgotten, and its pages are used again. */
  window?: number;
  kvHeads: number;
  headDim: number;
  valueDim: number;
  dtype: Dtype;
}

/** New K/V for a block: rows `position - firstPosition` of the tensors, for every position of the ranges. */
export interface KvAppendTensors {
  /** `[n, K, D]` */
  key: BufferSource;
  /** `[n, K, E]` */
  value: BufferSource;
  /** Position of the tensors' first row. */
  firstPosition: number;
  /** Ascending, and past everything that the block holds. */
  ranges: readonly TokenRange[];
}

/** A page in GPU memory that can be filled. */
class FillingPage implements GpuPage {
  readonly memory = "gpu";
  private readonly tokens: PositionList;
  private isListWritten = false;

  constructor(
    private readonly device: GPUDevice,
    readonly key: GPUBuffer,
    readonly value: GPUBuffer,
    private readonly list: GPUBuffer,
    readonly capacity: number,
  ) {
    this.tokens = new PositionList(capacity);
  }

  get count(): number {
    return this.tokens.count;
  }
  get minPosition(): number {
    return this.tokens.minPosition;
  }
  get maxPosition(): number {
    return this.tokens.maxPosition;
  }
  get positions(): TokenPositions {
    return this.tokens.affine ?? { positions: this.list, min: this.tokens.minPosition, max: this.tokens.maxPosition };
  }

  /** Positions of the tokens held, as the host keeps them. */
  hostPositions(): HostPage["positions"] {
    return this.tokens.affine ?? this.tokens.since(0).slice();
  }

  /** The list on the GPU is written from the moment that start and stride no longer say it all. */
  push(range: TokenRange): void {
    const before = this.tokens.count;
    this.tokens.push(range);
    if (this.tokens.affine) return;
    const from = this.isListWritten ? before : 0;
    this.device.queue.writeBuffer(this.list, from * 4, this.tokens.since(from));
    this.isListWritten = true;
  }

  clear(): void {
    this.tokens.clear();
    this.isListWritten = false;
  }

  release(): void {
    for (const buffer of [this.key, this.value, this.list]) release(buffer);
  }
}

/** A rank's block: `[tokens, K, D]` keys and `[tokens, K, E]` values in pages, with the position of every token. */
export class KvBlock implements RingBlock {
  /** Pages on the GPU, in order; in host memory at most one, the page being filled. */
  private filling: FillingPage[] = [];
  private hosted: HostPage[] = [];
  private isReleased = false;
  private readonly keyRowBytes: number;
  private readonly valueRowBytes: number;

  constructor(
    private readonly settings: KvBlockSettings,
    /** The rank that owns the block: its bytes are entered in the ledger under this number. */
    readonly kvRank: number,
    readonly label: string,
  ) {
    const bytes = BYTES_PER_ELEMENT[settings.dtype];
    this.keyRowBytes = settings.kvHeads * settings.headDim * bytes;
    this.valueRowBytes = settings.kvHeads * settings.valueDim * bytes;
  }

  /** Pages that hold tokens, positions ascending. */
  get pages(): readonly KvPage[] {
    return [...this.hosted, ...this.filling.filter((page) => page.count > 0)];
  }

  get tokenCount(): number {
    return this.pages.reduce((sum, page) => sum + page.count, 0);
  }

  /** Largest position held, -1 where nothing is. */
  get maxPosition(): number {
    return this.pages.at(-1)?.maxPosition ?? -1;
  }

  /** Smallest position held, -1 where nothing is. */
  get minPosition(): number {
    return this.pages[0]?.minPosition ?? -1;
  }

  /** Bytes of GPU memory taken, filled or not. */
  get gpuBytes(): number {
    return this.filling.length * this.settings.pageSize * (this.keyRowBytes + this.valueRowBytes + 4);
  }

  /** Tokens that {@link encodeAppend} can take before more is {@link reserve}d. */
  get room(): number {
    return this.filling.reduce((sum, page) => sum + page.capacity - page.count, 0);
  }

  /**
   * Makes room for `tokens` more, at positions from `firstPosition` on. A host block whose page is too full sends it to
   * the host: commands that read it must have been submitted. It takes at most one page at a time; {@link append} takes
   * any number.
   * @throws {GpuMemoryError}
   * @throws {OptionError} where a host block is asked for more than a page.
   */
  async reserve(tokens: number, firstPosition?: number): Promise<void> {
    this.checkUsable("reserve");
    if (firstPosition !== undefined) this.forgetHidden(firstPosition);
    const { memory, pageSize } = this.settings;
    if (this.room >= tokens) return;
    if (memory === "gpu") return this.addPages(Math.ceil((tokens - this.room) / pageSize));
    if (tokens > pageSize)
      throw new OptionError(
        `KvBlock.reserve: expected at most ${pageSize} tokens (one page) for a block in host memory, got ${tokens}; use append`,
      );
    if (this.filling.length === 0) await this.addPages(1);
    else await this.sendToHost(this.filling[0]!);
  }

  /**
   * Encodes the copying of new K/V into the pages; counts and positions change at once.
   * @throws {OptionError} where there is no room for them, or their positions are not past those held.
   */
  encodeAppend(target: CommandTarget, tensors: KvAppendTensors): void {
    this.checkUsable("encodeAppend");
    const { key, value, firstPosition, ranges } = tensors;
    const tokens = tokenCount(ranges);
    if (tokens > this.room)
      throw new OptionError(`KvBlock.encodeAppend: room for ${this.room} tokens, got ${tokens}; reserve them first`);
    for (const range of ranges) {
      if (range.count > 0 && range.start <= this.maxPosition)
        throw new OptionError(
          `KvBlock.encodeAppend: expected positions past ${this.maxPosition}, which the block holds, got ${range.start}`,
        );
      for (let done = 0; done < range.count; ) {
        const page = this.filling.find((candidate) => candidate.count < candidate.capacity)!;
        const count = Math.min(page.capacity - page.count, range.count - done);
        const part = { start: range.start + done * range.stride, stride: range.stride, count };
        this.encodeRows(target, key, page.key, page.count, this.keyRowBytes, part, firstPosition);
        this.encodeRows(target, value, page.value, page.count, this.valueRowBytes, part, firstPosition);
        page.push(part);
        done += count;
      }
    }
  }

  /** Appends any number of tokens, submitting by itself. What computes key and value must be submitted. */
  async append(tensors: KvAppendTensors): Promise<void> {
    const { device, memory, pageSize } = this.settings;
    this.forgetHidden(tensors.firstPosition);
    if (memory === "gpu") await this.reserve(tokenCount(tensors.ranges));
    for (const range of tensors.ranges)
      for (let done = 0; done < range.count; ) {
        if (this.room === 0) await this.reserve(1);
        const count = Math.min(memory === "gpu" ? range.count : Math.min(this.room, pageSize), range.count - done);
        const encoder = device.createCommandEncoder({ label: this.label });
        const part = { ...range, start: range.start + done * range.stride, count };
        this.encodeAppend(encoder, { ...tensors, ranges: [part] });
        device.queue.submit([encoder.finish()]);
        done += count;
      }
  }

  /** Forgets all tokens; pages on the GPU are kept for the next ones. */
  clear(): void {
    this.checkUsable("clear");
    this.hosted = [];
    for (const page of this.filling) page.clear();
  }

  /** Frees everything. The block cannot be used any more; doing it twice does no harm. */
  release(): void {
    this.isReleased = true;
    for (const page of this.filling) page.release();
    this.filling = [];
    this.hosted = [];
  }

  private checkUsable(method: string): void {
    if (this.isReleased) throw new DestroyedError(`KvBlock.${method}: ${this.label} was released`);
  }

  private encodeRows(
    target: CommandTarget,
    source: BufferSource,
    page: GPUBuffer,
    firstRow: number,
    rowBytes: number,
    range: TokenRange,
    firstPosition: number,
  ): void {
    const view = viewOf(source);
    const width = rowBytes / BYTES_PER_ELEMENT[this.settings.dtype];
    const byteOffset = view.byteOffset + (range.start - firstPosition) * rowBytes;
    const rows = (range.count - 1) * range.stride + 1;
    if ((range.start - firstPosition + rows) * rowBytes > view.byteLength)
      throw new OptionError(
        `KvBlock.encodeAppend: expected K/V up to position ${range.start + rows - 1} (${(range.start - firstPosition + rows) * rowBytes} bytes), got ${view.byteLength} bytes`,
      );
    this.settings.copier.encode(target, {
      source: { buffer: view.buffer, byteOffset },
      sourceStrides: { outer: 0, token: range.stride * width },
      target: { buffer: page, byteOffset: firstRow * rowBytes },
      targetStrides: { outer: 0, token: width },
      tokens: range.count,
      width,
    });
  }

  /** Drops pages that the window hides from every query at `position` or later; on the GPU they wait to be filled again. */
  private forgetHidden(position: number): void {
    const { window } = this.settings;
    if (window === undefined) return;
    const isHidden = (page: KvPage) => page.count > 0 && page.maxPosition <= position - window;
    this.hosted = this.hosted.filter((page) => !isHidden(page));
    const hidden = this.filling.filter(isHidden);
    for (const page of hidden) page.clear();
    this.filling = [...this.filling.filter((page) => !hidden.includes(page)), ...hidden];
  }

  private async addPages(count: number): Promise<void> {
    const { device, pageSize, ledger } = this.settings;
    const sizes = { key: this.keyRowBytes, value: this.valueRowBytes, positions: 4 };
    const first = this.filling.length + this.hosted.length;
    const list = Array.from({ length: count }, (_, index) =>
      Object.entries(sizes).map(([name, rowBytes]) => ({
        label: `${this.label} page ${first + index} ${name}`,
        byteLength: pageSize * rowBytes,
        owner: this.kvRank,
        ledger,
      })),
    ).flat();
    const buffers = await allocateAll(device, list);
    for (let i = 0; i < buffers.length; i += 3) {
      const page = new FillingPage(device, buffers[i]!, buffers[i + 1]!, buffers[i + 2]!, pageSize);
      if (this.isReleased) page.release();
      else this.filling.push(page);
    }
    this.checkUsable("reserve");
  }

  /** The copy is submitted now and the page is free for new tokens; the bytes arrive on the host when they arrive. */
  private async sendToHost(page: FillingPage): Promise<void> {
    const { count, minPosition, maxPosition } = page;
    const even = (byteLength: number) => Math.ceil(byteLength / 4) * 4;
    const keyBytes = even(count * this.keyRowBytes);
    const valueBytes = even(count * this.valueRowBytes);
    const { bytes } = await this.settings.readback!.start([
      { buffer: page.key, byteLength: keyBytes },
      { buffer: page.value, byteLength: valueBytes },
    ]);
    this.checkUsable("reserve");
    const rows = (rowBytes: number) => ({
      bytes: new Uint8Array(0),
      byteOffset: 0,
      batch: 1,
      count,
      rowBytes,
      batchBytes: 0,
      strideBytes: rowBytes,
    });
    const key = rows(this.keyRowBytes);
    const value = rows(this.valueRowBytes);
    const ready = bytes.then((all) => {
      key.bytes = all.subarray(0, keyBytes);
      value.bytes = all.subarray(keyBytes);
    });
    ready.catch(() => {});
    const positions = page.hostPositions();
    this.hosted.push({ memory: "host", count, minPosition, maxPosition, positions, key, value, ready });
    page.clear();
  }
}
