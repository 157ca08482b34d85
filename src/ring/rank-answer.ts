/**
 * A rank's answer in decode: a few queries over its own block alone, normalised, back on the host. One submit and one
 * mapping each: in a tree of ranks every millisecond here is one of the token's.
 */
import { ShapeError } from "../errors.ts";
import { allocateAll, type BufferSource, release, viewOf, write } from "../gpu/buffers.ts";
import { expectInteger } from "../shape.ts";
import { untilAborted } from "./abort.ts";
import type { KvBlock } from "./kv-block.ts";
import { MAX_POSITION } from "./positions.ts";
import { expectBytes, type RingKernels } from "./query-shard.ts";
import type { PartialAttention } from "./rank-types.ts";
import { isIntervalHidden } from "./schedule.ts";

/** Buffers of one answer; they wait for the next one. */
interface AnswerBuffers {
  /** Tokens that fit. */
  capacity: number;
  query: GPUBuffer;
  state: GPUBuffer;
  /** Output, then lse. */
  result: GPUBuffer;
  readback: GPUBuffer;
}

/** See {@link createAnswerer}. */
export interface Answerer {
  /** As `RankAttention.answer`. */
  answer(
    query: BufferSource | Float32Array<ArrayBuffer>,
    count: number,
    position: number,
    block: KvBlock,
    signal: AbortSignal,
  ): Promise<PartialAttention>;
  destroy(): void;
}

/** Copy destination and map for reading (the flags' values: GPUBufferUsage may not exist yet). */
const MAP_READ = 0x1 | 0x8;
/** Where any binding may begin. */
const ALIGNMENT = 256;

/** Answers over blocks in GPU memory; takes memory with the first of each size, and keeps it. */
export function createAnswerer(kernels: RingKernels, label: string): Answerer {
  const { device, stepper, resolved, rule } = kernels;
  const { heads, headDim, valueDim } = resolved;
  const spare: AnswerBuffers[] = [];
  let isDestroyed = false;
  const lseOffset = (count: number) => Math.ceil((count * heads * valueDim * 4) / ALIGNMENT) * ALIGNMENT;
  const resultBytes = (count: number) => lseOffset(count) + count * heads * 4;

  async function take(count: number): Promise<AnswerBuffers> {
    const index = spare.findIndex((buffers) => buffers.capacity >= count);
    if (index >= 0) return spare.splice(index, 1)[0]!;
    const [query, state, result, readback] = await allocateAll(device, [
      { label: `${label} answer query`, byteLength: count * heads * headDim * 4 },
      { label: `${label} answer state`, byteLength: stepper.stateByteLength(1, count) },
      { label: `${label} answer`, byteLength: resultBytes(count) },
      { label: `${label} answer readback`, byteLength: resultBytes(count), usage: MAP_READ },
    ]);
    return { capacity: count, query: query!, state: state!, result: result!, readback: readback! };
  }

  const free = ({ query, state, result, readback }: AnswerBuffers) => {
    for (const buffer of [query, state, result, readback]) release(buffer);
  };

  const give = (buffers: AnswerBuffers) => {
    if (isDestroyed) free(buffers);
    else spare.push(buffers);
  };

  /** Submits the whole answer. */
  function submit(
    buffers: AnswerBuffers,
    query: BufferSource | Float32Array<ArrayBuffer>,
    count: number,
    position: number,
    pages: KvBlock["gpuPages"],
  ): void {
    const isHost = query instanceof Float32Array;
    if (isHost) write(device, buffers.query, 0, query);
    const encoder = device.createCommandEncoder({ label: `${label} answer` });
    for (const [index, page] of pages.entries())
      stepper.encodeStep(encoder, {
        ...{ query: isHost ? buffers.query : query, key: page.key, value: page.value, state: buffers.state },
        ...{ isFirst: index === 0, batch: 1, seqLen: count, kvSeqLen: page.count, kvCapacity: page.capacity },
        ...{ queryPositions: { start: position }, kvPositions: page.positions },
      });
    stepper.encodeFinalize(encoder, {
      ...{ state: buffers.state, batch: 1, seqLen: count },
      output: { buffer: buffers.result, byteOffset: 0 },
      lse: { buffer: buffers.result, byteOffset: lseOffset(count) },
    });
    encoder.copyBufferToBuffer(buffers.result, 0, buffers.readback, 0, resultBytes(count));
    device.queue.submit([encoder.finish()]);
  }

  return {
    async answer(query, count, position, block, signal) {
      const where = "RankAttention.answer";
      signal.throwIfAborted();
      expectInteger(where, "count", count, 1);
      expectInteger(where, "position", position, 0, MAX_POSITION - count + 1);
      const elements = count * heads * headDim;
      if (query instanceof Float32Array) {
        if (query.length !== elements)
          throw new ShapeError(`${where}: expected query of ${elements} elements, got ${query.length}`);
      } else expectBytes(where, "query", viewOf(query), elements * 4);
      const pages = block.gpuPages.filter(
        (page) => !isIntervalHidden(position, position + count - 1, page.minPosition, page.maxPosition, rule),
      );
      if (pages.length === 0)
        return {
          output: new Float32Array(count * heads * valueDim),
          lse: new Float32Array(count * heads).fill(Number.NEGATIVE_INFINITY),
        };
      const buffers = await take(count);
      let mapping: Promise<unknown> = Promise.resolve();
      try {
        signal.throwIfAborted();
        submit(buffers, query, count, position, pages);
        const size = resultBytes(count);
        mapping = buffers.readback.mapAsync(0x1, 0, size);
        await untilAborted(mapping, signal);
        const bytes = buffers.readback.getMappedRange(0, size);
        return {
          output: new Float32Array(bytes.slice(0, count * heads * valueDim * 4)),
          lse: new Float32Array(bytes.slice(lseOffset(count), size)),
        };
      } finally {
        // Called off while it was being mapped: the buffers are free once that is through.
        const settle = () => {
          buffers.readback.unmap();
          give(buffers);
        };
        mapping.then(settle, () => free(buffers));
      }
    },
    destroy() {
      isDestroyed = true;
      for (const buffers of spare.splice(0)) free(buffers);
    },
  };
}
