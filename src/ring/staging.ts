/**
 * Two staging buffers through which pages in host memory pass: while the GPU computes on one, the next page is written
 * into the other, so the GPU never holds more than two pages of them, however many there are.
 */
import { DestroyedError, OptionError } from "../errors.ts";
import { allocateAll, release, write } from "../gpu/buffers.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import type { TokenPositions } from "../kernels/attention-types.ts";
import type { WireConverter } from "../kernels/wire-f16.ts";
import { untilAborted } from "./abort.ts";
import { type GpuPage, type HostPage, type KvPage, writeRows } from "./kv-page.ts";
import type { ArrivedPage } from "./transport.ts";
import { alreadyThere } from "./transport-local.ts";

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
  /** f16 rows on their way into `buffer`. */
  halves: GPUBuffer | undefined;
  /** Resolves when nobody reads the buffer any more. */
  free: Promise<unknown>;
}

const aligned = (byteLength: number) => Math.ceil(byteLength / ALIGNMENT) * ALIGNMENT;

/** See {@link createStaging}. */
export interface Staging {
  /** Brings a page into GPU memory: at once where it is there, else when a staging buffer is free. @throws signal.reason */
  bring(page: KvPage, signal: AbortSignal): ArrivedPage | Promise<ArrivedPage>;
  destroy(): void;
}

/**
 * @param converter Given: pages may hold f16 rows ({@link HostPage.isHalf}), which are widened on the GPU.
 * @throws {GpuMemoryError}
 */
export async function createStaging(
  device: GPUDevice,
  sizes: StagingSizes,
  label: string,
  converter?: WireConverter,
): Promise<Staging> {
  const valueOffset = aligned(sizes.keyBytes);
  const positionsOffset = valueOffset + aligned(sizes.valueBytes);
  // Halves lie in a buffer of their own: one dispatch may not read and write the same.
  const halfValueOffset = aligned(sizes.keyBytes / 2);
  const byteLengths = { staging: positionsOffset + aligned(sizes.tokens * 4) };
  if (converter) Object.assign(byteLengths, { halves: halfValueOffset + aligned(sizes.valueBytes / 2) });
  const buffers = await allocateAll(
    device,
    Array.from({ length: SLOT_COUNT }, (_, index) =>
      Object.entries(byteLengths).map(([name, byteLength]) => ({ label: `${label} ${name} ${index}`, byteLength })),
    ).flat(),
  );
  const perSlot = buffers.length / SLOT_COUNT;
  const slots: Slot[] = Array.from({ length: SLOT_COUNT }, (_, index) => ({
    buffer: buffers[index * perSlot]!,
    halves: converter && buffers[index * perSlot + 1]!,
    free: Promise.resolve(),
  }));
  let next = 0;
  let isDestroyed = false;

  /** Writes a page into a staging buffer that nobody reads. */
  function fill({ buffer, halves }: Slot, page: HostPage): Pick<ArrivedPage, "prepare"> & { page: GpuPage } {
    const { key, value, count } = page;
    const widening = page.isHalf ? 2 : 1;
    const keyBytes = key.batch * count * key.rowBytes * widening;
    const valueBytes = value.batch * count * value.rowBytes * widening;
    if (keyBytes > sizes.keyBytes || valueBytes > sizes.valueBytes || count > sizes.tokens)
      throw new OptionError(
        `staging: expected pages of at most ${sizes.tokens} tokens, ${sizes.keyBytes} + ${sizes.valueBytes} bytes, got ${count} tokens, ${keyBytes} + ${valueBytes} bytes`,
      );
    let prepare: ((target: CommandTarget) => void) | undefined;
    if (page.isHalf) {
      if (!converter) throw new OptionError("staging: got a page of f16 rows, and was made without a converter");
      writeRows(device, halves!, 0, key);
      writeRows(device, halves!, halfValueOffset, value);
      prepare = (target) => {
        converter.encodeWiden(target, { source: halves!, target: buffer, count: keyBytes / 4 });
        const [source, widened] = [
          { buffer: halves!, byteOffset: halfValueOffset },
          { buffer, byteOffset: valueOffset },
        ];
        converter.encodeWiden(target, { source, target: widened, count: valueBytes / 4 });
      };
    } else {
      writeRows(device, buffer, 0, key);
      writeRows(device, buffer, valueOffset, value);
    }
    let positions: TokenPositions;
    if (page.positions instanceof Uint32Array) {
      write(device, buffer, positionsOffset, page.positions);
      const list = { buffer, byteOffset: positionsOffset, byteLength: count * 4 };
      positions = { positions: list, min: page.minPosition, max: page.maxPosition };
    } else positions = page.positions;
    const filled: GpuPage = {
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
    return { page: filled, prepare };
  }

  async function bring(page: KvPage, signal: AbortSignal): Promise<ArrivedPage> {
    signal.throwIfAborted();
    if (isDestroyed) throw new DestroyedError("staging: used after destroy");
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
      const filled = fill(slot, page);
      return { ...filled, startMs, transferMs: performance.now() - startMs, release: (done) => free(done) };
    } catch (error) {
      free!(before);
      throw error;
    }
  }

  return {
    bring,
    destroy() {
      isDestroyed = true;
      for (const buffer of buffers) release(buffer);
    },
  };
}
