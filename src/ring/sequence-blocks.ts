/** A whole sequence's K/V as the blocks of a ring: every rank's tokens as pages, in place wherever that can be. */
import { OptionError, ShapeError } from "../errors.ts";
import { type BufferSource, read, viewOf } from "../gpu/buffers.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import { BYTES_PER_ELEMENT } from "../shape.ts";
import type { GpuPage, HostPage, HostRows, KvPage, RingBlock } from "./kv-page.ts";
import { expectBytes, type RingKernels } from "./query-shard.ts";
import type { HostTensor } from "./ring-types.ts";
import { cutRanges, lastPosition, tokenCount } from "./shard.ts";
import type { BlockMemory, TokenRange } from "./types.ts";
import type { Workspace, WorkspaceRequest } from "./workspace.ts";

/** K/V of a whole sequence, in token order. */
export interface SequenceTensors {
  /** `[B, S, K, D]` */
  key: BufferSource | HostTensor;
  /** `[B, S, K, E]` */
  value: BufferSource | HostTensor;
  batch: number;
  /** S */
  kvSeqLen: number;
  /** Position of the first key. */
  firstPosition: number;
  /** u32 `[B, S]` */
  kvSegments?: BufferSource;
}

/** Bytes read back at once where K/V that lie on the GPU are wanted in host memory. */
const READ_BYTES = 1 << 24;

const isHost = (tensor: BufferSource | HostTensor): tensor is HostTensor => ArrayBuffer.isView(tensor);

/** The blocks, and the copies that must be encoded before any is met. */
export interface SequenceBlocks {
  blocks: RingBlock[];
  encodeGather(target: CommandTarget): void;
}

/** The tensor's bytes in host memory; from the GPU they come piece by piece. */
async function hostBytes(
  device: GPUDevice,
  name: string,
  tensor: BufferSource | HostTensor,
  byteLength: number,
): Promise<Uint8Array<ArrayBuffer>> {
  if (isHost(tensor)) {
    if (tensor.byteLength !== byteLength)
      throw new ShapeError(
        `RingAttention.run: expected ${name} of ${byteLength / tensor.BYTES_PER_ELEMENT} elements, got ${tensor.length}`,
      );
    return new Uint8Array(tensor.buffer, tensor.byteOffset, tensor.byteLength);
  }
  expectBytes("RingAttention.run", name, tensor, byteLength);
  const view = viewOf(tensor);
  const bytes = new Uint8Array(byteLength);
  for (let at = 0; at < byteLength; at += READ_BYTES) {
    const part = {
      buffer: view.buffer,
      byteOffset: view.byteOffset + at,
      byteLength: Math.min(READ_BYTES, byteLength - at),
    };
    bytes.set(new Uint8Array(await read(device, part)), at);
  }
  return bytes;
}

/**
 * Makes every rank's block of a sequence.
 * @throws {OptionError} for K/V in host memory where the ring's blocks live on the GPU.
 * @throws {ShapeError} where a tensor's size does not fit.
 */
export async function sequenceBlocks(
  kernels: RingKernels,
  workspace: Workspace,
  memory: BlockMemory,
  pageSize: number,
  tensors: SequenceTensors,
  shards: readonly (readonly TokenRange[])[],
): Promise<SequenceBlocks> {
  const { resolved, device } = kernels;
  const { key, value, batch, kvSeqLen } = tensors;
  const bytes = BYTES_PER_ELEMENT[resolved.dtype];
  const keyRow = resolved.kvHeads * resolved.headDim * bytes;
  const valueRow = resolved.kvHeads * resolved.valueDim * bytes;
  for (const [name, tensor] of Object.entries({ key, value })) {
    if (!isHost(tensor)) continue;
    if (memory !== "host")
      throw new OptionError(
        `RingAttention.run: ${name} is in host memory, which needs blockMemory "host", got "${memory}"`,
      );
    if (tensor.BYTES_PER_ELEMENT !== bytes)
      throw new ShapeError(
        `RingAttention.run: expected ${name} as ${bytes === 4 ? "Float32Array" : "Uint16Array (bits of f16)"}, got ${tensor.constructor.name}`,
      );
  }
  const gatherer = new Gatherer(kernels, workspace, tensors);
  // A page holds all batch entries of its tokens.
  const pieces = shards.map((ranges) => cutRanges(ranges, Math.max(1, Math.floor(pageSize / batch))));
  let pageOf: (range: TokenRange, rank: number, index: number) => KvPage;
  if (memory === "host") {
    const [keyBytes, valueBytes] = [
      await hostBytes(device, "key", key, batch * kvSeqLen * keyRow),
      await hostBytes(device, "value", value, batch * kvSeqLen * valueRow),
    ];
    pageOf = (range, rank, index) => ({
      ...hostPage(tensors, range, keyBytes, keyRow, valueBytes, valueRow),
      segments: gatherer.segments(range, rank, index),
    });
  } else {
    expectBytes("RingAttention.run", "key", key as BufferSource, batch * kvSeqLen * keyRow);
    expectBytes("RingAttention.run", "value", value as BufferSource, batch * kvSeqLen * valueRow);
    pageOf = (range, rank, index) => gatherer.page(range, rank, index, keyRow, valueRow);
  }
  // Twice: once to learn what memory is needed, once with that memory there.
  pieces.forEach((ranges, rank) => {
    ranges.forEach((range, index) => {
      pageOf(range, rank, index);
    });
  });
  await gatherer.prepare();
  const blocks = pieces.map((ranges, rank) => ({
    kvRank: rank,
    tokenCount: tokenCount(ranges),
    pages: ranges.map((range, index) => pageOf(range, rank, index)),
  }));
  return { blocks, encodeGather: (target) => gatherer.encode(target) };
}

function hostPage(
  tensors: SequenceTensors,
  range: TokenRange,
  keyBytes: Uint8Array<ArrayBuffer>,
  keyRow: number,
  valueBytes: Uint8Array<ArrayBuffer>,
  valueRow: number,
): HostPage {
  const rows = (bytes: Uint8Array<ArrayBuffer>, rowBytes: number): HostRows => ({
    bytes,
    byteOffset: (range.start - tensors.firstPosition) * rowBytes,
    batch: tensors.batch,
    count: range.count,
    rowBytes,
    batchBytes: tensors.kvSeqLen * rowBytes,
    strideBytes: range.stride * rowBytes,
  });
  return {
    memory: "host",
    count: range.count,
    minPosition: range.start,
    maxPosition: lastPosition(range),
    positions: { start: range.start, stride: range.stride },
    key: rows(keyBytes, keyRow),
    value: rows(valueBytes, valueRow),
    ready: Promise.resolve(),
  };
}

/** Pages in GPU memory: views of the sequence where a range is one run of it, else copies in the rank's own memory. */
class Gatherer {
  private readonly requests = new Map<string, WorkspaceRequest>();
  private readonly copies: ((target: CommandTarget) => void)[] = [];
  private isReady = false;

  constructor(
    private readonly kernels: RingKernels,
    private readonly workspace: Workspace,
    private readonly tensors: SequenceTensors,
  ) {}

  async prepare(): Promise<void> {
    await this.workspace.prepare([...this.requests.values()]);
    this.isReady = true;
  }

  encode(target: CommandTarget): void {
    for (const copy of this.copies) copy(target);
  }

  page(range: TokenRange, rank: number, index: number, keyRow: number, valueRow: number): GpuPage {
    const { batch, kvSeqLen } = this.tensors;
    const key = this.tensors.key as BufferSource;
    const value = this.tensors.value as BufferSource;
    const reach = (batch - 1) * kvSeqLen + range.count;
    const isInPlace =
      range.stride === 1 &&
      reach * Math.max(keyRow, valueRow) <= this.kernels.device.limits.maxStorageBufferBindingSize - 512;
    return {
      memory: "gpu",
      count: range.count,
      capacity: isInPlace && batch > 1 ? kvSeqLen : range.count,
      minPosition: range.start,
      maxPosition: lastPosition(range),
      positions: { start: range.start, stride: range.stride },
      key: isInPlace ? this.inPlace(key, range, keyRow) : this.gathered(`key ${index}`, key, range, rank, keyRow),
      value: isInPlace
        ? this.inPlace(value, range, valueRow)
        : this.gathered(`value ${index}`, value, range, rank, valueRow),
      segments: this.segments(range, rank, index),
    };
  }

  segments(range: TokenRange, rank: number, index: number): BufferSource | undefined {
    const { kvSegments, batch } = this.tensors;
    if (!kvSegments) return undefined;
    if (batch === 1 && range.stride === 1) return this.inPlace(kvSegments, range, 4);
    return this.gathered(`kvSegments ${index}`, kvSegments, range, rank, 4);
  }

  private inPlace(source: BufferSource, range: TokenRange, rowBytes: number): BufferSource {
    const view = viewOf(source);
    return {
      buffer: view.buffer,
      byteOffset: view.byteOffset + (range.start - this.tensors.firstPosition) * rowBytes,
    };
  }

  /** `[B, count]` rows in the rank's own memory; the copy is encoded later. */
  private gathered(
    name: string,
    source: BufferSource,
    range: TokenRange,
    rank: number,
    rowBytes: number,
  ): BufferSource {
    const { batch, kvSeqLen } = this.tensors;
    const { resolved, copier, wordCopier } = this.kernels;
    const key = `${rank} ${name}`;
    const byteLength = batch * range.count * rowBytes;
    if (!this.isReady) {
      this.requests.set(key, { key, byteLength, owner: rank, label: `${resolved.label} rank ${rank} ${name}` });
      return source;
    }
    const target = this.workspace.view(key, byteLength);
    const isWord = name.startsWith("kvSegments");
    const width = rowBytes / (isWord ? 4 : resolved.bytesPerElement);
    this.copies.push((commands) =>
      (isWord ? wordCopier : copier).encode(commands, {
        ...{ outer: batch, tokens: range.count, width },
        ...{ source: this.inPlace(source, range, rowBytes) },
        ...{ sourceStrides: { outer: kvSeqLen * width, token: range.stride * width } },
        ...{ target, targetStrides: { outer: range.count * width, token: width } },
      }),
    );
    return target;
  }
}
