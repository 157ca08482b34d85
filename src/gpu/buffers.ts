/** GPU buffers: allocation that is checked and entered in the ledger, views, and reading back. */
import { GpuMemoryError, OptionError, ShapeError } from "../errors.ts";
import { expectInteger } from "../shape.ts";
import { ledgerOf, type MemoryLedger, SHARED } from "./ledger.ts";

/** A part of a GPU buffer. A whole buffer may be given wherever a view is taken. */
export interface BufferView {
  buffer: GPUBuffer;
  /** Bytes from the buffer's start; a multiple of the element size. Default 0. */
  byteOffset?: number;
  /** Bytes; to the buffer's end unless given. */
  byteLength?: number;
}

/** Where a kernel takes a tensor. */
export type BufferSource = GPUBuffer | BufferView;

/** The view of a source: a whole buffer becomes a view from 0 to its end. */
export function viewOf(source: BufferSource): Required<BufferView> {
  const view: BufferView = "buffer" in source ? source : { buffer: source };
  const byteOffset = view.byteOffset ?? 0;
  return { buffer: view.buffer, byteOffset, byteLength: view.byteLength ?? view.buffer.size - byteOffset };
}

/** What {@link allocate} makes. */
export interface AllocateOptions {
  label: string;
  byteLength: number;
  /** Default: storage, copy source and copy destination. */
  usage?: GPUBufferUsageFlags;
  /** Whose bytes these are in the ledger: a rank, or "shared" (the default). */
  owner?: number | string;
  /** A ledger besides the device's where the bytes are entered too. */
  ledger?: MemoryLedger;
}

/** Storage that can be copied from and to: what most tensors are. (The flags' values: GPUBufferUsage may not exist yet.) */
export const STORAGE = 0x80 | 0x4 | 0x8;

const COPY_SRC = 0x4;

const owners = new WeakMap<GPUBuffer, { ledgers: MemoryLedger[]; owner: number | string }>();

function create(device: GPUDevice, options: AllocateOptions): GPUBuffer {
  const byteLength = expectInteger(`allocate("${options.label}")`, "byteLength", options.byteLength, 0);
  const size = Math.max(16, Math.ceil(byteLength / 4) * 4);
  const usage = options.usage ?? STORAGE;
  if (size > device.limits.maxBufferSize)
    throw new GpuMemoryError(
      `allocate("${options.label}"): ${size} bytes asked for, and this device allows at most ${device.limits.maxBufferSize} in one buffer (maxBufferSize)`,
      size,
    );
  const buffer = device.createBuffer({ label: options.label, size, usage });
  const owner = options.owner ?? SHARED;
  const ledgers = options.ledger ? [ledgerOf(device), options.ledger] : [ledgerOf(device)];
  owners.set(buffer, { ledgers, owner });
  for (const ledger of ledgers) ledger.add(owner, size);
  return buffer;
}

/**
 * A new buffer, checked: resolves only when the device has confirmed it. Sizes are rounded up to 4 bytes, 16 at least.
 * Give it back with {@link release}.
 * @throws {GpuMemoryError} naming the bytes asked for, the bytes held so far, and the limit.
 * @throws {OptionError} where `byteLength` is no integer of at least 0.
 */
export async function allocate(device: GPUDevice, options: AllocateOptions): Promise<GPUBuffer> {
  const [buffer] = await allocateAll(device, [options]);
  return buffer!;
}

/** {@link allocate} for several buffers in one error scope: all of them, or none. @throws {GpuMemoryError} @throws {OptionError} */
export async function allocateAll(device: GPUDevice, list: readonly AllocateOptions[]): Promise<GPUBuffer[]> {
  const buffers: GPUBuffer[] = [];
  device.pushErrorScope("validation");
  device.pushErrorScope("out-of-memory");
  let failure: unknown;
  try {
    for (const options of list) buffers.push(create(device, options));
  } catch (error) {
    failure = error;
  }
  const [memory, validation] = await Promise.all([device.popErrorScope(), device.popErrorScope()]);
  const gpuError = memory ?? validation;
  if (failure || gpuError) {
    for (const buffer of buffers) release(buffer);
    const held = ledgerOf(device).total.bytes;
    if (failure) throw failure;
    const byteLength = list.reduce((sum, options) => sum + options.byteLength, 0);
    throw new GpuMemoryError(
      `allocate("${list.map((options) => options.label).join('", "')}"): the GPU refused ${byteLength} bytes (held so far: ${held}; maxBufferSize ${device.limits.maxBufferSize}): ${gpuError!.message}`,
      byteLength,
    );
  }
  return buffers;
}

/** Destroys a buffer made by {@link allocate} and strikes it from the ledger. Doing it twice does no harm. */
export function release(buffer: GPUBuffer | undefined): void {
  if (!buffer) return;
  const entry = owners.get(buffer);
  if (entry) {
    for (const ledger of entry.ledgers) ledger.add(entry.owner, -buffer.size);
    owners.delete(buffer);
  }
  buffer.destroy();
}

/** A new storage buffer holding `data`. @throws {GpuMemoryError} */
export async function upload(
  device: GPUDevice,
  label: string,
  data: ArrayBufferView<ArrayBuffer>,
  owner: number | string = SHARED,
): Promise<GPUBuffer> {
  const buffer = await allocate(device, { label, byteLength: data.byteLength, owner });
  write(device, buffer, 0, data);
  return buffer;
}

/** `queue.writeBuffer` for data whose byte length need not be a multiple of 4. */
export function write(
  device: GPUDevice,
  buffer: GPUBuffer,
  byteOffset: number,
  data: ArrayBufferView<ArrayBuffer>,
): void {
  const whole = data.byteLength & ~3;
  if (whole > 0) device.queue.writeBuffer(buffer, byteOffset, data.buffer, data.byteOffset, whole);
  if (whole === data.byteLength) return;
  const rest = new Uint8Array(4);
  rest.set(new Uint8Array(data.buffer, data.byteOffset + whole, data.byteLength - whole));
  device.queue.writeBuffer(buffer, byteOffset + whole, rest);
}

/**
 * Reads a buffer (or a part of it) back, after everything submitted so far. The bytes are the caller's own copy.
 * @throws {OptionError} where the buffer was made without COPY_SRC: the copy would be refused, and zeros read.
 * @throws {ShapeError} where the part is not within the buffer. @throws {GpuMemoryError}
 */
export async function read(device: GPUDevice, source: BufferSource): Promise<ArrayBuffer> {
  const { buffer, byteOffset, byteLength } = viewOf(source);
  if ((buffer.usage & COPY_SRC) === 0)
    throw new OptionError(
      `read: expected buffer "${buffer.label}" to have usage COPY_SRC, got usage 0x${buffer.usage.toString(16)}`,
    );
  // Copies go by words of 4 bytes; a view of 2-byte elements may begin within one.
  const start = Math.floor(byteOffset / 4) * 4;
  const skip = byteOffset - start;
  const size = Math.ceil((skip + byteLength) / 4) * 4;
  if (byteOffset < 0 || byteLength < 0 || start + size > buffer.size)
    throw new ShapeError(
      `read: expected bytes ${start} to ${start + size} (whole words) within buffer "${buffer.label}", got one of ${buffer.size} bytes`,
    );
  const staging = await allocate(device, { label: `read ${buffer.label}`, byteLength: size, usage: 0x1 | 0x8 });
  try {
    const encoder = device.createCommandEncoder({ label: `read ${buffer.label}` });
    encoder.copyBufferToBuffer(buffer, start, staging, 0, size);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(0x1, 0, size);
    return staging.getMappedRange(0, size).slice(skip, skip + byteLength);
  } finally {
    release(staging);
  }
}
