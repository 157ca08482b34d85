/**
 * The K/V that one rank owns. It grows page by page: nothing is reallocated or moved, so a step of decoding costs the same
 * however long the context. In host memory only the page that is being filled is on the GPU; full ones go to the host.
 */
import { DestroyedError, OptionError } from "../errors.ts";
import { allocateAll, type BufferSource, viewOf, write } from "../gpu/buffers.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import type { MemoryLedger } from "../gpu/ledger.ts";
import type { TokenCopier } from "../kernels/copy-tokens.ts";
import { BYTES_PER_ELEMENT, type Dtype } from "../shape.ts";
import { FillingPage, pageCapacities, placeTokens } from "./filling-page.ts";
import type { BlockPage, HostPage, KvPage, RingBlock } from "./kv-page.ts";
import { findRows, type HostTokens, readRows } from "./kv-rows.ts";
import { intervalOf, listPositions, lowerBound, sortedPositions, toRanges } from "./positions.ts";
import type { Readback } from "./readback.ts";
import { lastPosition, tokenCount } from "./shard.ts";
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
  /** Tokens that will come at most, where that is known: pages on the GPU are then no larger than what they will hold. */
  mostTokens?: number;
  /** Positions may come in any order (each once); else they must be past those held. Default false; GPU blocks only. */
  isAnyOrder?: boolean;
  /** Sliding window: what no later query can see is forgotten, and its pages are used again. */
  window?: number;
  kvHeads: number;
  headDim: number;
  valueDim: number;
  dtype: Dtype;
}

/** New K/V for a block. */
export interface KvAppendTensors {
  /** `[n, K, D]` */
  key: BufferSource;
  /** `[n, K, E]` */
  value: BufferSource;
  /**
   * Position of the tensors' first row: the token at position p is row `p - firstPosition`. Left out: rows are packed, row
   * i is the i-th position of the ranges.
   */
  firstPosition?: number;
  /** Ascending, and past everything that the block holds, unless it was made for any order. */
  ranges: readonly TokenRange[];
}

/** What a block held at some moment; see {@link KvBlock.mark}. */
export interface KvBlockMark {
  readonly generation: number;
  readonly counts: ReadonlyMap<object, number>;
}

/** A rank's block: `[tokens, K, D]` keys and `[tokens, K, E]` values in pages, with the position of every token. */
export class KvBlock implements RingBlock {
  /** Pages on the GPU, in order; in host memory at most one, the page being filled. */
  private filling: FillingPage[] = [];
  private hosted: HostPage[] = [];
  private isReleased = false;
  /** Raised by whatever takes tokens away or moves them: marks made before say nothing any more. */
  private generation = 0;
  private heldRanges: readonly TokenRange[] | undefined;
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

  /** Pages that hold tokens; positions ascend within a page, and over all of them unless they came in any order. */
  get pages(): readonly KvPage[] {
    return [...this.hosted, ...this.filling.filter((page) => page.count > 0)];
  }

  /** Pages in GPU memory that hold tokens, with their positions on the host. */
  get gpuPages(): readonly BlockPage[] {
    return this.filling.filter((page) => page.count > 0);
  }

  get tokenCount(): number {
    return this.pages.reduce((sum, page) => sum + page.count, 0);
  }

  /** Largest position held, -1 where nothing is. */
  get maxPosition(): number {
    return this.pages.reduce((max, page) => Math.max(max, page.maxPosition), -1);
  }

  /** Smallest position held, -1 where nothing is. */
  get minPosition(): number {
    const { pages } = this;
    return pages.length === 0 ? -1 : Math.min(...pages.map((page) => page.minPosition));
  }

  /** The positions held, ascending. @throws {OptionError} for a block in host memory. */
  get ranges(): readonly TokenRange[] {
    this.checkGpu("ranges");
    const lists = this.filling.flatMap((page) => toRanges(page.positionList));
    this.heldRanges ??= toRanges(sortedPositions("KvBlock.ranges", lists));
    return this.heldRanges;
  }

  /** Bytes of GPU memory taken, filled or not. */
  get gpuBytes(): number {
    return this.capacity * (this.keyRowBytes + this.valueRowBytes + 4);
  }

  /** Tokens that the pages on the GPU have room for, filled or not. */
  private get capacity(): number {
    return this.filling.reduce((sum, page) => sum + page.capacity, 0);
  }

  /** Tokens that {@link encodeAppend} can take before more is {@link reserve}d. */
  get room(): number {
    return this.filling.reduce((sum, page) => sum + page.capacity - page.count, 0);
  }

  /**
   * Makes room for `tokens` more (for a block of any order: for these positions), at positions from `firstPosition` on. A
   * host block whose page is too full sends it to the host: commands that read it must have been submitted. It takes at
   * most one page at a time; {@link append} takes any number.
   * @throws {GpuMemoryError}
   * @throws {OptionError} where a host block is asked for more than a page.
   */
  async reserve(tokens: number | readonly TokenRange[], firstPosition?: number): Promise<void> {
    this.checkUsable("reserve");
    if (firstPosition !== undefined) this.forgetHidden(firstPosition);
    const { memory, pageSize } = this.settings;
    if (typeof tokens !== "number") {
      if (memory === "gpu") return this.addPages(placeTokens(this.filling, tokens, pageSize).missingPages * pageSize);
      return this.reserve(tokenCount(tokens));
    }
    if (this.room >= tokens) return;
    if (memory === "gpu") return this.addPages(tokens - this.room);
    if (tokens > pageSize)
      throw new OptionError(
        `KvBlock.reserve: expected at most ${pageSize} tokens (one page) for a block in host memory, got ${tokens}; use append`,
      );
    if (this.filling.length === 0) await this.addPages(pageSize);
    else await this.sendToHost(this.filling[0]!);
  }

  /**
   * Encodes the copying of new K/V into the pages; counts and positions change at once.
   * @throws {OptionError} where there is no room for them, or the block holds their positions (or later ones) already.
   */
  encodeAppend(target: CommandTarget, tensors: KvAppendTensors): void {
    const where = "KvBlock.encodeAppend";
    this.checkUsable("encodeAppend");
    const { key, value, firstPosition, ranges } = tensors;
    const tokens = tokenCount(ranges);
    if (tokens > this.room)
      throw new OptionError(`${where}: room for ${this.room} tokens, got ${tokens}; reserve them first`);
    this.checkPositions(where, ranges);
    this.checkRows(key, value, firstPosition, ranges);
    const { placements, missingPages } = placeTokens(this.filling, ranges, this.settings.pageSize);
    if (missingPages > 0)
      throw new OptionError(`${where}: no page with room for all of these positions; reserve them (as ranges) first`);
    for (const { page: index, row, range, first } of placements) {
      const page = this.filling[index]!;
      const from =
        firstPosition === undefined
          ? { start: first, stride: 1, count: range.count }
          : { ...range, start: range.start - firstPosition };
      this.encodeRows(target, key, page.key, row, this.keyRowBytes, from);
      this.encodeRows(target, value, page.value, row, this.valueRowBytes, from);
      page.push(range);
    }
    this.heldRanges = undefined;
  }

  /**
   * Appends any number of tokens, submitting by itself. What computes key and value must be submitted.
   * @throws {OptionError} for packed rows and a block in host memory.
   */
  async append(tensors: KvAppendTensors): Promise<void> {
    const { device, memory, pageSize } = this.settings;
    if (tensors.firstPosition !== undefined) this.forgetHidden(tensors.firstPosition);
    if (memory === "gpu") {
      await this.reserve(tensors.ranges);
      const encoder = device.createCommandEncoder({ label: this.label });
      this.encodeAppend(encoder, tensors);
      device.queue.submit([encoder.finish()]);
      return;
    }
    if (tensors.firstPosition === undefined) this.checkGpu("append (packed)");
    for (const range of tensors.ranges)
      for (let done = 0; done < range.count; ) {
        if (this.room === 0) await this.reserve(1);
        const count = Math.min(this.room, pageSize, range.count - done);
        const encoder = device.createCommandEncoder({ label: this.label });
        const part = { ...range, start: range.start + done * range.stride, count };
        this.encodeAppend(encoder, { ...tensors, ranges: [part] });
        device.queue.submit([encoder.finish()]);
        done += count;
      }
  }

  /** Remembers what is held, for {@link rollback}. @throws {OptionError} for a block in host memory. */
  mark(): KvBlockMark {
    this.checkGpu("mark");
    return { generation: this.generation, counts: new Map(this.filling.map((page) => [page, page.count])) };
  }

  /**
   * Forgets what was appended since; its pages are kept for the next ones.
   * @throws {OptionError} where tokens held then have been taken away since.
   */
  rollback(mark: KvBlockMark): void {
    this.checkGpu("rollback");
    if (mark.generation !== this.generation)
      throw new OptionError(`KvBlock.rollback: ${this.label} has lost tokens since the mark was made; make marks anew`);
    for (const page of this.filling) page.truncate(mark.counts.get(page) ?? 0);
    this.heldRanges = undefined;
  }

  /**
   * Forgets these positions; those not held are passed over. Pages that lose all their tokens are freed, others are copied
   * without them. Marks made before are void. What reads or writes the block must have been submitted.
   * @throws {GpuMemoryError} The tokens of pages not yet reached are still held then.
   * @throws {OptionError} for a block in host memory.
   */
  async drop(ranges: readonly TokenRange[]): Promise<void> {
    this.checkGpu("drop");
    const gone = listPositions(ranges).sort();
    const isGone = (position: number) => gone[lowerBound(gone, position)] === position;
    for (const page of [...this.filling]) {
      const rows: number[] = [];
      page.positionList.forEach((position, row) => {
        if (!isGone(position)) rows.push(row);
      });
      if (rows.length === page.count) continue;
      this.generation++;
      this.heldRanges = undefined;
      // The tokens that stay come first: the rest is cut off.
      if (rows.at(-1) === rows.length - 1) page.truncate(rows.length);
      else await this.moveRows(page, rows);
    }
    this.trim();
  }

  /** Frees pages that hold nothing. What reads or writes them must have been submitted. */
  trim(): void {
    for (const page of this.filling) if (page.count === 0) page.release();
    this.filling = this.filling.filter((page) => page.count > 0);
  }

  /**
   * Copies the K/V of some positions to host memory, rows in the order of the ranges.
   * @throws {OptionError} for positions that are not held, and for a block in host memory.
   * @throws signal.reason
   */
  async readTokens(ranges: readonly TokenRange[], signal: AbortSignal): Promise<HostTokens> {
    this.checkGpu("readTokens");
    const runs = findRows(`KvBlock.readTokens: ${this.label}`, this.filling, listPositions(ranges));
    const [key, value] = [this.keyRowBytes, this.valueRowBytes];
    return readRows(this.settings.device, this.label, runs, { key, value }, signal);
  }

  /**
   * Appends tokens from host memory, rows in the order of the ranges.
   * @throws {OptionError} where the bytes do not fit the positions, or those are held already.
   * @throws {GpuMemoryError}
   */
  async writeTokens(ranges: readonly TokenRange[], tokens: HostTokens): Promise<void> {
    const where = "KvBlock.writeTokens";
    this.checkGpu("writeTokens");
    const { device, pageSize } = this.settings;
    const count = tokenCount(ranges);
    const sizes = [count * this.keyRowBytes, count * this.valueRowBytes];
    if (tokens.key.byteLength !== sizes[0] || tokens.value.byteLength !== sizes[1])
      throw new OptionError(
        `${where}: expected ${sizes.join(" + ")} bytes of keys and values for ${count} tokens, got ${tokens.key.byteLength} + ${tokens.value.byteLength}`,
      );
    this.checkPositions(where, ranges);
    await this.reserve(ranges);
    for (const { page: index, row, range, first } of placeTokens(this.filling, ranges, pageSize).placements) {
      const page = this.filling[index]!;
      const rows = (bytes: Uint8Array<ArrayBuffer>, rowBytes: number) =>
        bytes.subarray(first * rowBytes, (first + range.count) * rowBytes);
      write(device, page.key, row * this.keyRowBytes, rows(tokens.key, this.keyRowBytes));
      write(device, page.value, row * this.valueRowBytes, rows(tokens.value, this.valueRowBytes));
      page.push(range);
    }
    this.heldRanges = undefined;
  }

  /** Forgets all tokens; pages on the GPU are kept for the next ones. */
  clear(): void {
    this.checkUsable("clear");
    this.generation++;
    this.heldRanges = undefined;
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

  private checkGpu(method: string): void {
    this.checkUsable(method);
    if (this.settings.memory !== "gpu")
      throw new OptionError(
        `KvBlock.${method}: expected a block in GPU memory, got ${this.label} in host memory (blockMemory "host")`,
      );
  }

  /** @throws {OptionError} where positions are held already, or (unless any order will do) not past those held. */
  private checkPositions(where: string, ranges: readonly TokenRange[]): void {
    if (!this.settings.isAnyOrder) {
      let last = this.maxPosition;
      for (const range of ranges) {
        if (range.count === 0) continue;
        if (range.start <= last)
          throw new OptionError(`${where}: expected positions past ${last}, which the block holds, got ${range.start}`);
        last = lastPosition(range);
      }
      return;
    }
    if (ranges.length > 1) sortedPositions(where, ranges);
    for (const range of ranges) {
      const span = intervalOf([range]);
      if (!span) continue;
      for (const page of this.filling) {
        if (page.count === 0 || page.maxPosition < span.min || page.minPosition > span.max) continue;
        const list = page.positionList;
        for (let i = lowerBound(list, span.min); i < list.length && list[i]! <= span.max; i++)
          if ((list[i]! - range.start) % range.stride === 0)
            throw new OptionError(`${where}: expected positions that ${this.label} does not hold, got ${list[i]}`);
      }
    }
  }

  /** @throws {OptionError} where the tensors end before the last row that is wanted. */
  private checkRows(
    key: BufferSource,
    value: BufferSource,
    firstPosition: number | undefined,
    ranges: readonly TokenRange[],
  ): void {
    const rows = firstPosition === undefined ? tokenCount(ranges) : (intervalOf(ranges)?.max ?? -1) + 1 - firstPosition;
    for (const [name, source, rowBytes] of [
      ["key", key, this.keyRowBytes],
      ["value", value, this.valueRowBytes],
    ] as const) {
      const { byteLength } = viewOf(source);
      if (rows * rowBytes > byteLength)
        throw new OptionError(
          `KvBlock.encodeAppend: expected ${name} of ${rows} rows (${rows * rowBytes} bytes), got ${byteLength} bytes`,
        );
    }
  }

  /** Copies rows (`from` counts rows, not positions) into a page. */
  private encodeRows(
    target: CommandTarget,
    source: BufferSource,
    page: GPUBuffer,
    firstRow: number,
    rowBytes: number,
    from: TokenRange,
  ): void {
    const view = viewOf(source);
    const width = rowBytes / BYTES_PER_ELEMENT[this.settings.dtype];
    this.settings.copier.encode(target, {
      source: { buffer: view.buffer, byteOffset: view.byteOffset + from.start * rowBytes },
      sourceStrides: { outer: 0, token: from.stride * width },
      target: { buffer: page, byteOffset: firstRow * rowBytes },
      targetStrides: { outer: 0, token: width },
      tokens: from.count,
      width,
    });
  }

  /** Moves some rows of a page to other pages and empties it. */
  private async moveRows(page: FillingPage, rows: readonly number[]): Promise<void> {
    const { device, pageSize } = this.settings;
    const positions = toRanges(rows.map((row) => page.positionList[row]!));
    // Its own free rows are no place for them.
    this.filling = this.filling.filter((other) => other !== page);
    try {
      await this.reserve(positions);
    } catch (error) {
      if (this.isReleased) page.release();
      else this.filling.push(page);
      throw error;
    }
    const encoder = device.createCommandEncoder({ label: `${this.label} move` });
    for (const { page: index, row, range, first } of placeTokens(this.filling, positions, pageSize).placements) {
      const to = this.filling[index]!;
      let done = 0;
      for (const from of toRanges(rows.slice(first, first + range.count))) {
        this.encodeRows(encoder, page.key, to.key, row + done, this.keyRowBytes, from);
        this.encodeRows(encoder, page.value, to.value, row + done, this.valueRowBytes, from);
        done += from.count;
      }
      to.push(range);
    }
    device.queue.submit([encoder.finish()]);
    page.release();
  }

  /** Drops pages that the window hides from every query at `position` or later; on the GPU they wait to be filled again. */
  private forgetHidden(position: number): void {
    const { window } = this.settings;
    if (window === undefined) return;
    const isHidden = (page: KvPage) => page.count > 0 && page.maxPosition <= position - window;
    this.hosted = this.hosted.filter((page) => !isHidden(page));
    const hidden = this.filling.filter(isHidden);
    if (hidden.length > 0) this.generation++;
    this.heldRanges = undefined;
    for (const page of hidden) page.clear();
    this.filling = [...this.filling.filter((page) => !hidden.includes(page)), ...hidden];
  }

  /** Pages with room for so many tokens more. */
  private async addPages(tokens: number): Promise<void> {
    const { device, ledger, memory, pageSize, mostTokens } = this.settings;
    // A host block's page is filled and sent again and again.
    const foreseen = memory === "gpu" && mostTokens !== undefined ? mostTokens - this.capacity : undefined;
    const capacities = pageCapacities(tokens, pageSize, foreseen);
    if (capacities.length === 0) return;
    const sizes = { key: this.keyRowBytes, value: this.valueRowBytes, positions: 4 };
    const first = this.filling.length + this.hosted.length;
    const list = capacities.flatMap((capacity, index) =>
      Object.entries(sizes).map(([name, rowBytes]) => ({
        label: `${this.label} page ${first + index} ${name}`,
        byteLength: capacity * rowBytes,
        owner: this.kvRank,
        ledger,
      })),
    );
    const buffers = await allocateAll(device, list);
    for (const [index, capacity] of capacities.entries()) {
      const [key, value, positions] = buffers.slice(3 * index) as [GPUBuffer, GPUBuffer, GPUBuffer];
      const page = new FillingPage(device, key, value, positions, capacity);
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
