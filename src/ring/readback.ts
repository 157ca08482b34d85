/** Buffers through which K/V pages go from the GPU to the host: their number bounds the memory in flight. */
import { DestroyedError } from "../errors.ts";
import { allocateAll, release } from "../gpu/buffers.ts";

const READBACK_COUNT = 2;
/** Copy destination and map for reading (the flags' values: GPUBufferUsage may not exist yet). */
const MAP_READ = 0x1 | 0x8;

/** A part of a GPU buffer that is wanted on the host; all multiples of 4 bytes. */
export interface ReadbackPart {
  buffer: GPUBuffer;
  /** Default 0. */
  byteOffset?: number;
  byteLength: number;
}

/** Reads pages back without waiting for more than the copy itself; see {@link createReadback}. */
export interface Readback {
  /** Buffers: so many copies can be under way at once. */
  readonly count: number;
  /** Of one buffer: all parts of one copy together. */
  readonly byteLength: number;
  /**
   * Submits the copy of the parts and resolves once it is submitted: the buffers may be overwritten by later commands.
   * `bytes` resolves with the parts, one after the other. `encodeBefore` encodes what makes the parts, just before.
   */
  start(
    parts: readonly ReadbackPart[],
    encodeBefore?: (encoder: GPUCommandEncoder) => void,
  ): Promise<{ bytes: Promise<Uint8Array<ArrayBuffer>> }>;
  destroy(): void;
}

/** @param count Buffers, of `byteLength` each. Default 2. @throws {GpuMemoryError} */
export async function createReadback(
  device: GPUDevice,
  byteLength: number,
  label: string,
  count = READBACK_COUNT,
): Promise<Readback> {
  const buffers = await allocateAll(
    device,
    Array.from({ length: count }, (_, index) => ({
      label: `${label} readback ${index}`,
      byteLength,
      usage: MAP_READ,
    })),
  );
  const free = [...buffers];
  const waiting: { resolve: (buffer: GPUBuffer) => void; reject: (error: Error) => void }[] = [];
  let isDestroyed = false;
  const gone = () => new DestroyedError(`${label}: destroyed while K/V was on its way to the host`);

  const take = (): Promise<GPUBuffer> => {
    const buffer = free.pop();
    return buffer ? Promise.resolve(buffer) : new Promise((resolve, reject) => waiting.push({ resolve, reject }));
  };
  const give = (buffer: GPUBuffer) => {
    const next = waiting.shift();
    if (next) next.resolve(buffer);
    else free.push(buffer);
  };

  async function mapped(buffer: GPUBuffer, size: number): Promise<Uint8Array<ArrayBuffer>> {
    try {
      await buffer.mapAsync(0x1, 0, size);
      const bytes = new Uint8Array(buffer.getMappedRange(0, size).slice(0));
      buffer.unmap();
      return bytes;
    } catch (error) {
      throw isDestroyed ? gone() : error;
    } finally {
      give(buffer);
    }
  }

  return {
    count,
    byteLength,
    async start(parts, encodeBefore) {
      if (isDestroyed) throw gone();
      const buffer = await take();
      const encoder = device.createCommandEncoder({ label: `${label} readback` });
      encodeBefore?.(encoder);
      let size = 0;
      for (const part of parts) {
        encoder.copyBufferToBuffer(part.buffer, part.byteOffset ?? 0, buffer, size, part.byteLength);
        size += part.byteLength;
      }
      device.queue.submit([encoder.finish()]);
      const bytes = mapped(buffer, size);
      // Whoever reads the page sees the failure; nobody reading it is not an unhandled rejection.
      bytes.catch(() => {});
      return { bytes };
    },
    destroy() {
      isDestroyed = true;
      for (const { reject } of waiting.splice(0)) reject(gone());
      for (const buffer of buffers) release(buffer);
    },
  };
}
