/**
 * A stand-in for a GPU: a GPUDevice whose buffers are host memory and whose queue only takes time. Copies and uploads really move
 * bytes; a dispatch computes nothing and is done when a queue of the chosen speed would have done it, without using the processor.
 * So the ring's loop, page streaming, readback, credits and links run as they are, for many ranks on a machine whose cores could
 * not compute for one. Never a figure of any GPU's speed: the speed is what the bench asks for.
 */

/** What a dispatch has bound, by number: bytes from the binding's offset on. */
export type BoundBytes = (binding: number) => Uint8Array<ArrayBuffer>;

/** Milliseconds that a dispatch takes. @param label Of the pipeline. */
export type DispatchCost = (label: string, bound: BoundBytes) => number;

/** See the module's comment. */
export interface StandInDevice {
  device: GPUDevice;
  /** Time that the queue was busy since the start, in milliseconds. */
  readonly busyMs: number;
}

type Handler = (...args: never[]) => unknown;

/** Time from a copy's end until the host hears of it. */
const MAP_MS = 0.5;

const LIMITS = {
  maxBufferSize: 2 ** 30,
  maxStorageBufferBindingSize: 2 ** 30,
  maxStorageBuffersPerShaderStage: 10,
  maxComputeWorkgroupStorageSize: 32_768,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupSizeY: 256,
  maxComputeWorkgroupSizeZ: 64,
  maxComputeWorkgroupsPerDimension: 65_535,
  minStorageBufferOffsetAlignment: 256,
  minUniformBufferOffsetAlignment: 256,
};

/** A buffer in host memory. */
class HostBuffer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** When the last copy into it is done, on the queue's time. */
  readyMs = 0;

  constructor(
    readonly size: number,
    readonly usage: number,
    readonly label: string,
  ) {
    this.bytes = new Uint8Array(size);
  }

  async mapAsync(): Promise<void> {
    await until(this.readyMs + MAP_MS);
  }

  getMappedRange(offset = 0, size = this.size - offset): ArrayBuffer {
    return this.bytes.buffer.slice(offset, offset + size);
  }

  unmap(): void {}
  destroy(): void {}
}

/** Resolves at a time of `performance.now()`, in a later task. */
const until = (timeMs: number): Promise<void> =>
  new Promise((resolve) => {
    const leftMs = timeMs - performance.now();
    if (leftMs <= 0) setImmediate(resolve);
    else setTimeout(resolve, Math.ceil(leftMs));
  });

interface Binding {
  binding: number;
  resource: { buffer: GPUBuffer; offset?: number };
}

/** A command, run when its buffer is submitted: moves bytes now, and tells the time that it takes on the queue. */
type Command = (queue: StandInQueue) => void;

class StandInQueue {
  endMs = 0;
  busyMs = 0;

  constructor(readonly costOf: DispatchCost) {}

  take(milliseconds: number): void {
    this.endMs = Math.max(this.endMs, performance.now()) + milliseconds;
    this.busyMs += milliseconds;
  }

  submit(buffers: readonly { commands: Command[] }[]): void {
    for (const { commands } of buffers) for (const command of commands) command(this);
  }

  writeBuffer(target: HostBuffer, offset: number, data: ArrayBuffer | ArrayBufferView, from = 0, size?: number): void {
    const source = ArrayBuffer.isView(data)
      ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
      : new Uint8Array(data);
    // Offsets and sizes of typed arrays count elements; only whole arrays and plain buffers are written here.
    target.bytes.set(source.subarray(from, size === undefined ? undefined : from + size), offset);
  }

  onSubmittedWorkDone(): Promise<void> {
    return until(this.endMs);
  }
}

class StandInEncoder {
  readonly commands: Command[] = [];

  copyBufferToBuffer(source: HostBuffer, from: number, target: HostBuffer, to: number, size: number): void {
    this.commands.push((queue) => {
      target.bytes.set(source.bytes.subarray(from, from + size), to);
      target.readyMs = Math.max(queue.endMs, performance.now());
    });
  }

  clearBuffer(target: HostBuffer, offset = 0, size = target.size - offset): void {
    this.commands.push(() => void target.bytes.fill(0, offset, offset + size));
  }

  beginComputePass() {
    let label = "";
    let entries: readonly Binding[] = [];
    return {
      setPipeline: (pipeline: { label: string }) => {
        label = pipeline.label;
      },
      setBindGroup: (_group: number, bound: { entries: readonly Binding[] }) => {
        ({ entries } = bound);
      },
      dispatchWorkgroups: () => {
        const [name, bindings] = [label, entries];
        this.commands.push((queue) => {
          const cost = queue.costOf(name, (number) => {
            const { buffer, offset = 0 } = bindings.find(({ binding }) => binding === number)!.resource;
            return (buffer as unknown as HostBuffer).bytes.subarray(offset);
          });
          if (cost > 0) queue.take(cost);
        });
      },
      end: () => {},
    };
  }

  finish(): this {
    return this;
  }
}

/** A stand-in whose dispatches take the time that `costOf` says. */
export function createStandInDevice(costOf: DispatchCost): StandInDevice {
  // Constants of WebGPU that exist only where WebGPU does.
  (globalThis as { GPUShaderStage?: unknown }).GPUShaderStage ??= { VERTEX: 1, FRAGMENT: 2, COMPUTE: 4 };
  const queue = new StandInQueue(costOf);
  const made = (descriptor: object) => descriptor;
  const methods: Record<string, Handler> = {
    createBuffer: ({ size, usage, label = "" }: GPUBufferDescriptor) => new HostBuffer(size, usage, label),
    createShaderModule: () => ({ getCompilationInfo: async () => ({ messages: [] }) }),
    createBindGroupLayout: made,
    createPipelineLayout: made,
    createBindGroup: made,
    createComputePipelineAsync: async ({ label }: { label: string }) => ({ label }),
    createCommandEncoder: () => new StandInEncoder(),
    pushErrorScope: () => {},
    popErrorScope: async () => null,
    destroy: () => {},
  };
  const device = {
    ...methods,
    queue,
    limits: LIMITS,
    features: new Set<string>(),
    adapterInfo: { vendor: "stand-in", architecture: "", description: "a queue that only takes time", device: "" },
    lost: new Promise<never>(() => {}),
    addEventListener: () => {},
    removeEventListener: () => {},
  };
  return {
    device: device as unknown as GPUDevice,
    get busyMs() {
      return queue.busyMs;
    },
  };
}
