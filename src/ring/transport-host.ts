/**
 * All ranks on one device, blocks in host memory: each page goes through one of exactly two staging buffers. While the GPU
 * computes on one, the next page is written into the other, so the GPU never holds more than two pages of K/V whatever the
 * context's length.
 */
import { DestroyedError, OptionError } from "../errors.ts";
import { allocateAll, release, write } from "../gpu/buffers.ts";
import type { TokenPositions } from "../kernels/attention-types.ts";
import { untilAborted } from "./abort.ts";
import { type GpuPage, type HostPage, type KvPage, writeRows } from "./kv-page.ts";
import type { ArrivedPage, Transport } from "./transport.ts";
import { alreadyThere, beginRotation } from "./transport-local.ts";

const SLOT_COUNT = 2;
/** Key, value and positions share one buffer; each begins where any binding may begin. */
const ALIGNMENT = 256;

/** Largest page that is to pass through the staging buffers, in bytes. */
export interface StagingSizes {
  keyBytes: number;
  valueBytes: number;
  /** Tokens, for their positions. */
  tokens: number;
}

interface Slot {
  buffer: GPUBuffer;
  /** Resolves when nobody reads the buffer any more. */
  free: Promise<unknown>;
}

const aligned = (byteLength: number) => Math.ceil(byteLength / ALIGNMENT) * ALIGNMENT;

/**
 * The transport of `blockMemory: "host"`.
 * @throws {GpuMemoryError}
 */
export async function createHostTransport(device: GPUDevice, sizes: StagingSizes, label: string): Promise<Transport> {
  const valueOffset = aligned(sizes.keyBytes);
  const positionsOffset = valueOffset + aligned(sizes.valueBytes);
  const buffers = await allocateAll(
    device,
    Array.from({ length: SLOT_COUNT }, (_, index) => ({
      label: `${label} staging ${index}`,
      byteLength: positionsOffset + aligned(sizes.tokens * 4),
    })),
  );
  const slots: Slot[] = buffers.map((buffer) => ({ buffer, free: Promise.resolve() }));
  let next = 0;
  let isDestroyed = false;

  /** Writes a page into a staging buffer that nobody reads. */
  function fill(buffer: GPUBuffer, page: HostPage): GpuPage {
    const { key, value, count } = page;
    const keyBytes = key.batch * count * key.rowBytes;
    const valueBytes = value.batch * count * value.rowBytes;
    if (keyBytes > sizes.keyBytes || valueBytes > sizes.valueBytes || count > sizes.tokens)
      throw new OptionError(
        `transport-host: expected pages of at most ${sizes.tokens} tokens, ${sizes.keyBytes} + ${sizes.valueBytes} bytes, got ${count} tokens, ${keyBytes} + ${valueBytes} bytes`,
      );
    writeRows(device, buffer, 0, key);
    writeRows(device, buffer, valueOffset, value);
    let positions: TokenPositions;
    if (page.positions instanceof Uint32Array) {
      write(device, buffer, positionsOffset, page.positions);
      const list = { buffer, byteOffset: positionsOffset, byteLength: count * 4 };
      positions = { positions: list, min: page.minPosition, max: page.maxPosition };
    } else positions = page.positions;
    return {
      memory: "gpu",
      count,
      capacity: count,
      minPosition: page.minPosition,
      maxPosition: page.maxPosition,
      segments: page.segments,
      positions,
      key: { buffer, byteOffset: 0, byteLength: keyBytes },
      value: { buffer, byteOffset: valueOffset, byteLength: valueBytes },
    };
  }

  async function bring(page: KvPage, signal: AbortSignal): Promise<ArrivedPage> {
    signal.throwIfAborted();
    if (isDestroyed) throw new DestroyedError("transport-host: used after destroy");
    if (page.memory === "gpu") return alreadyThere(page);
    const slot = slots[next]!;
    next = (next + 1) % SLOT_COUNT;
    const before = slot.free;
    // Claimed at once: a pass that runs beside this one waits behind it, for the other slot or for this one's release.
    let free: (done?: Promise<unknown>) => void;
    slot.free = new Promise((resolve) => (free = resolve));
    try {
      await untilAborted(before, signal);
      await untilAborted(page.ready, signal);
      const startMs = performance.now();
      const filled = fill(slot.buffer, page);
      return { page: filled, startMs, transferMs: performance.now() - startMs, release: (done) => free(done) };
    } catch (error) {
      free!(before);
      throw error;
    }
  }

  return {
    name: "host",
    beginPass: (worldSize, signal) => ({ ...beginRotation(worldSize), bring: (page) => bring(page, signal) }),
    destroy() {
      isDestroyed = true;
      for (const buffer of buffers) release(buffer);
    },
  };
}
