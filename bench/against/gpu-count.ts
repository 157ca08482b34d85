/** Counts the GPU memory of a page from outside of the library that runs in it, and hears its device's complaints. */
import type { PageGpu } from "./contender.ts";

/** At most so many messages are kept: a broken library repeats itself with every dispatch. */
const MESSAGES_KEPT = 3;

/** The count of a page. */
export interface GpuCount {
  told(): PageGpu;
  /** Runs what is our question and not the library's work: buffers made meanwhile do not count. */
  uncounted<T>(run: () => Promise<T>): Promise<T>;
}

/**
 * Wraps `createBuffer`, `GPUBuffer.destroy` and `requestDevice` of this page; to be called before a library is loaded. A
 * buffer counts from createBuffer to destroy, or until it is collected as garbage. One that is larger than the device
 * allows never exists: it is told as refused.
 */
export function countGpu(): GpuCount {
  const told: PageGpu = { peakBytes: 0, refusedBytes: 0, errors: [] };
  let bytes = 0;
  let isPaused = false;
  const live = new WeakMap<GPUBuffer, { size: number }>();
  const strike = (entry: { size: number }) => {
    bytes -= entry.size;
    entry.size = 0;
  };
  const collected = new FinalizationRegistry(strike);

  const { createBuffer } = GPUDevice.prototype;
  GPUDevice.prototype.createBuffer = function (this: GPUDevice, descriptor: GPUBufferDescriptor): GPUBuffer {
    const buffer = createBuffer.call(this, descriptor);
    if (isPaused) return buffer;
    if (descriptor.size > this.limits.maxBufferSize) {
      told.refusedBytes = Math.max(told.refusedBytes, descriptor.size);
      return buffer;
    }
    const entry = { size: descriptor.size };
    live.set(buffer, entry);
    collected.register(buffer, entry, buffer);
    bytes += entry.size;
    told.peakBytes = Math.max(told.peakBytes, bytes);
    return buffer;
  };

  const { destroy } = GPUBuffer.prototype;
  GPUBuffer.prototype.destroy = function (this: GPUBuffer): undefined {
    const entry = live.get(this);
    if (entry) strike(entry);
    return destroy.call(this);
  };

  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (this: GPUAdapter, descriptor?: GPUDeviceDescriptor) {
    const device = await requestDevice.call(this, descriptor);
    device.addEventListener("uncapturederror", ({ error }) => {
      if (told.errors.length < MESSAGES_KEPT) told.errors.push(error.message);
    });
    void device.lost.then(({ reason, message }) => {
      if (reason !== "destroyed") told.lost = message || reason;
    });
    return device;
  };
  return {
    told: () => ({ ...told, errors: [...told.errors] }),
    async uncounted(run) {
      isPaused = true;
      try {
        return await run();
      } finally {
        isPaused = false;
      }
    },
  };
}
