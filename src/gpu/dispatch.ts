/**
 * Encoding a dispatch: uniforms from a per-device arena, bind group, workgroups. Nothing is submitted and no GPU memory
 * is taken here (but for the uniforms of thousands of dispatches at once), so `encode*` functions can be synchronous.
 */
import { OptionError } from "../errors.ts";
import { type BufferSource, viewOf } from "./buffers.ts";
import { ledgerOf, SHARED } from "./ledger.ts";
import type { Kernel } from "./pipeline.ts";

/** Where commands go: an encoder (a pass is opened and ended) or a compute pass that is already open. */
export type CommandTarget = GPUCommandEncoder | GPUComputePassEncoder;

/** One field of a uniform block: `u32` integers and `f32` floats, packed in order, 4 bytes each. */
export type UniformField = { u32: number } | { i32: number } | { f32: number };

const SLOT_BYTES = 256;
const SLOT_COUNT = 1024;
/** Slots of the first page: all that one attention or MLP needs, and little beside the tensors of a short call. */
const FIRST_SLOT_COUNT = 256;

/** 256 KiB of uniform blocks (the first page: 64 KiB), and the synchronous run of code that last asked for one of them. */
interface UniformPage {
  buffer: GPUBuffer;
  /** Of the blocks it holds, in order. */
  keys: string[];
  epoch: number;
}

/** Pages that are kept: an encoder may wait while some 15,000 other blocks are written. */
const PAGES_KEPT = 16;

/**
 * Uniform blocks, addressed by their content: equal blocks share a slot. `queue.writeBuffer` happens before everything
 * submitted later, so a slot is never rewritten, since commands that read it may wait in an encoder that is still open. A
 * full page of slots is followed by a new one, and the page used longest ago is destroyed: an encoder that waited longer
 * than that fails loudly when it is submitted (a destroyed buffer) instead of reading another call's numbers. Pages used in
 * the same synchronous run of code are always kept (decode over thousands of pages, encoded at once).
 */
class UniformArena {
  private readonly pages: UniformPage[] = [];
  private readonly slots = new Map<string, { page: UniformPage; offset: number }>();
  private epoch = 0;
  private isEpochEnding = false;

  constructor(private readonly device: GPUDevice) {}

  slot(data: Uint32Array<ArrayBuffer>): GPUBufferBinding {
    if (data.byteLength > SLOT_BYTES)
      throw new OptionError(`uniform block of ${data.byteLength} bytes; at most ${SLOT_BYTES} fit`);
    const key = data.join();
    let slot = this.slots.get(key);
    if (!slot) {
      const page = this.openPage();
      slot = { page, offset: page.keys.length * SLOT_BYTES };
      page.keys.push(key);
      this.slots.set(key, slot);
      this.device.queue.writeBuffer(page.buffer, slot.offset, data);
    }
    slot.page.epoch = this.now();
    const size = Math.max(16, Math.ceil(data.byteLength / 16) * 16);
    return { buffer: slot.page.buffer, offset: slot.offset, size };
  }

  /** The newest page, or one more where that is full. */
  private openPage(): UniformPage {
    const newest = this.pages.at(-1);
    if (newest && newest.keys.length * SLOT_BYTES < newest.buffer.size) return newest;
    while (this.pages.length >= PAGES_KEPT && this.retireOldest());
    const size = SLOT_BYTES * (newest ? SLOT_COUNT : FIRST_SLOT_COUNT);
    const buffer = this.device.createBuffer({ label: "ringwise uniforms", size, usage: 0x40 | 0x8 });
    ledgerOf(this.device).add(SHARED, size);
    const page = { buffer, keys: [], epoch: this.epoch };
    this.pages.push(page);
    return page;
  }

  /** Destroys the page used longest ago. False where each was used in this synchronous run of code. */
  private retireOldest(): boolean {
    const oldest = this.pages.reduce((a, b) => (b.epoch < a.epoch ? b : a));
    if (oldest.epoch === this.now()) return false;
    for (const key of oldest.keys) this.slots.delete(key);
    this.pages.splice(this.pages.indexOf(oldest), 1);
    oldest.buffer.destroy();
    ledgerOf(this.device).add(SHARED, -oldest.buffer.size);
    return true;
  }

  /** The number of this synchronous run of code. */
  private now(): number {
    if (!this.isEpochEnding) {
      this.isEpochEnding = true;
      queueMicrotask(() => {
        this.epoch++;
        this.isEpochEnding = false;
      });
    }
    return this.epoch;
  }
}

const arenas = new WeakMap<GPUDevice, UniformArena>();

/** Packs the fields (4 bytes each, in order) and returns the binding of a uniform block that holds them. */
export function uniforms(device: GPUDevice, fields: readonly UniformField[]): GPUBufferBinding {
  let arena = arenas.get(device);
  if (!arena) arenas.set(device, (arena = new UniformArena(device)));
  const data = new Uint32Array(Math.ceil(fields.length / 4) * 4);
  const floats = new Float32Array(data.buffer);
  const ints = new Int32Array(data.buffer);
  fields.forEach((field, index) => {
    if ("u32" in field) data[index] = field.u32;
    else if ("i32" in field) ints[index] = field.i32;
    else floats[index] = field.f32;
  });
  return arena.slot(data);
}

/** A storage binding whose offset is a multiple of the device's alignment, and how many bytes in the data begins. */
export interface AlignedBinding {
  binding: GPUBufferBinding;
  /** Bytes between the binding's start and the view's start: pass it to the kernel as an element offset. */
  skipBytes: number;
}

/** Binds a view at any offset: the binding starts at the aligned offset before it. */
export function alignedBinding(device: GPUDevice, source: BufferSource): AlignedBinding {
  const view = viewOf(source);
  const skipBytes = view.byteOffset % device.limits.minStorageBufferOffsetAlignment;
  const offset = view.byteOffset - skipBytes;
  const size = Math.min(view.buffer.size - offset, Math.ceil((view.byteLength + skipBytes) / 4) * 4);
  return { binding: { buffer: view.buffer, offset, size }, skipBytes };
}

/** Small buffers for bindings that a variant does not use. WebGPU forbids one writable buffer in two bindings. */
const placeholders = new WeakMap<GPUDevice, Map<string, GPUBuffer>>();

/** A 256-byte storage buffer for an unused binding; `name` tells unused writable bindings of one kernel apart. */
export function placeholder(device: GPUDevice, name = "read"): GPUBuffer {
  let map = placeholders.get(device);
  if (!map) placeholders.set(device, (map = new Map()));
  let buffer = map.get(name);
  if (!buffer) {
    buffer = device.createBuffer({ label: `ringwise placeholder ${name}`, size: 256, usage: 0x80 });
    ledgerOf(device).add(SHARED, 256);
    map.set(name, buffer);
  }
  return buffer;
}

/** What {@link dispatch} runs. */
export interface DispatchOptions {
  kernel: Kernel;
  /** Bindings 0, 1, 2, ... of group 0; null for a number that the kernel's variant leaves out. */
  bindings: readonly (GPUBuffer | GPUBufferBinding | null)[];
  workgroups: readonly [x: number, y?: number, z?: number];
}

/**
 * Encodes one dispatch into an encoder or an open pass.
 * @throws {OptionError} where a dimension exceeds the device's `maxComputeWorkgroupsPerDimension`.
 */
export function dispatch(device: GPUDevice, target: CommandTarget, options: DispatchOptions): void {
  const { kernel, bindings, workgroups } = options;
  const [x, y = 1, z = 1] = workgroups;
  const most = device.limits.maxComputeWorkgroupsPerDimension;
  if (Math.max(x, y, z) > most)
    throw new OptionError(`${kernel.label}: ${x} x ${y} x ${z} workgroups; this device allows ${most} per dimension`);
  const bindGroup = device.createBindGroup({
    label: kernel.label,
    layout: kernel.layout,
    entries: bindings.flatMap((entry, binding) =>
      entry ? [{ binding, resource: "buffer" in entry ? entry : { buffer: entry } }] : [],
    ),
  });
  const opened = "beginComputePass" in target ? target.beginComputePass({ label: kernel.label }) : undefined;
  const pass = opened ?? (target as GPUComputePassEncoder);
  pass.setPipeline(kernel.pipeline);
  pass.setBindGroup(0, bindGroup);
  pass.dispatchWorkgroups(x, y, z);
  opened?.end();
}

/** Splits a count of workgroups over x and y so that neither exceeds the limit; the kernel rebuilds `y * x_count + x`. */
export function spreadWorkgroups(device: GPUDevice, count: number): [x: number, y: number] {
  const most = device.limits.maxComputeWorkgroupsPerDimension;
  if (count <= most) return [count, 1];
  const y = Math.ceil(count / most);
  return [Math.ceil(count / y), y];
}
