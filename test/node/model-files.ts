/** Model files made in memory for tests, and a GPU that only remembers what was written to it. */
import { ModelSourceError } from "../../src/errors.ts";
import type { ModelFiles } from "../../src/model/types.ts";

/** Files out of texts and bytes. */
export function memoryFiles(contents: Readonly<Record<string, string | Uint8Array>>): ModelFiles {
  const get = (path: string) => {
    const content = contents[path];
    return typeof content === "string" ? new TextEncoder().encode(content) : content;
  };
  return {
    name: "memory",
    size: async (path) => get(path)?.byteLength,
    async read(path, range, signal) {
      signal?.throwIfAborted();
      const bytes = get(path);
      if (!bytes) throw new ModelSourceError(`memory: expected a file named ${path}, got none`);
      const { start, end } = range ?? { start: 0, end: bytes.byteLength };
      if (end > bytes.byteLength) throw new Error(`test read past the end of ${path}`);
      return new Uint8Array(bytes.subarray(start, end));
    },
  };
}

/** A safetensors file around a header that may say anything. */
export function safetensorsFile(header: unknown, data: Uint8Array, headerByteLength?: number): Uint8Array {
  const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const file = new Uint8Array(8 + json.byteLength + data.byteLength);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerByteLength ?? json.byteLength), true);
  file.set(json, 8);
  file.set(data, 8 + json.byteLength);
  return file;
}

/** An honest safetensors file: tensors end to end, in the order given. */
export function packTensors(
  tensors: readonly { name: string; dtype: string; shape: readonly number[]; bytes: Uint8Array }[],
): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  let position = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    header[name] = { dtype, shape, data_offsets: [position, position + bytes.byteLength] };
    position += bytes.byteLength;
  }
  const data = new Uint8Array(position);
  position = 0;
  for (const { bytes } of tensors) {
    data.set(bytes, position);
    position += bytes.byteLength;
  }
  return safetensorsFile(header, data);
}

/** A GPUBuffer of {@link fakeDevice}. */
export interface FakeBuffer {
  label: string;
  size: number;
  bytes: Uint8Array;
  isDestroyed: boolean;
}

/** A device whose buffers are memory; writes are held to WebGPU's rules. */
export function fakeDevice(options: { maxBufferSize?: number; isFallbackAdapter?: boolean } = {}) {
  const buffers: FakeBuffer[] = [];
  let lose: (info: { reason: string; message: string }) => void = () => {};
  const device = {
    adapterInfo: { isFallbackAdapter: options.isFallbackAdapter ?? false },
    features: new Set<string>(),
    limits: { maxBufferSize: options.maxBufferSize ?? 2 ** 30 },
    lost: new Promise((resolve) => {
      lose = resolve;
    }),
    pushErrorScope() {},
    popErrorScope: async () => null,
    createBuffer({ label, size }: { label: string; size: number }) {
      const buffer = { label, size, bytes: new Uint8Array(size), isDestroyed: false, destroy: () => {} };
      buffer.destroy = () => {
        buffer.isDestroyed = true;
      };
      buffers.push(buffer);
      return buffer;
    },
    queue: {
      writeBuffer(buffer: FakeBuffer, offset: number, data: ArrayBuffer | Uint8Array, from = 0, length?: number) {
        const source = data instanceof Uint8Array ? data : new Uint8Array(data, from, length);
        if (offset % 4 !== 0 || source.byteLength % 4 !== 0 || offset + source.byteLength > buffer.size)
          throw new Error(`writeBuffer: ${source.byteLength} bytes at ${offset} into ${buffer.size}`);
        if (buffer.isDestroyed) throw new Error("writeBuffer: destroyed");
        buffer.bytes.set(source, offset);
      },
      onSubmittedWorkDone: async () => {},
    },
  };
  return {
    device: device as unknown as GPUDevice,
    buffers,
    lose: (message: string) => lose({ reason: "unknown", message }),
  };
}
