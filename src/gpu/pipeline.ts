/** Compute pipelines, cached per device by their final source; compile errors that show the offending line. */
import { ShaderCompileError } from "../errors.ts";
import { FILE_MARK } from "./specialize.ts";

/** How one binding of a kernel is used. */
export type BindingKind = "uniform" | "read" | "read-write";

/** What a pipeline is made from. */
export interface PipelineDescriptor {
  /** The kernel's file and variant, e.g. "attention.wgsl causal d64": shown in errors, captures and labels. */
  label: string;
  source: string;
  /** Kinds of bindings 0, 1, 2, ... of group 0, in order; null for a number that this variant leaves out. */
  bindings: readonly (BindingKind | null)[];
  entryPoint?: string;
}

/** A compiled kernel: pipeline and the layout of its only bind group. */
export interface Kernel {
  readonly label: string;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

const caches = new WeakMap<GPUDevice, Map<string, Promise<Kernel>>>();

const BUFFER_TYPE: Readonly<Record<BindingKind, GPUBufferBindingType>> = {
  uniform: "uniform",
  read: "read-only-storage",
  "read-write": "storage",
};

/** "<file>: line 12, column 3: <message>\n    <the line>" for each error, naming the file that the line came from. */
function formatCompileErrors(label: string, source: string, info: GPUCompilationInfo): string {
  const lines = source.split("\n");
  return info.messages
    .filter((message) => message.type === "error")
    .map((message) => {
      // specialize() marks where each file begins, so that line numbers are those of the file on disk.
      const isMark = (text: string) => text.startsWith(FILE_MARK);
      const start = lines.slice(0, message.lineNum).findLastIndex(isMark);
      const isAdded = start < 0 && lines.some(isMark);
      const file = lines[start]?.slice(FILE_MARK.length) ?? (isAdded ? `${label}, added by specialize()` : label);
      // Without a mark above, start is -1: lines count from the source's own first.
      const line = message.lineNum - 1 - start;
      return `${file}: line ${line}, column ${message.linePos}: ${message.message}\n    ${lines[message.lineNum - 1] ?? ""}`;
    })
    .join("\n");
}

async function compile(device: GPUDevice, descriptor: PipelineDescriptor): Promise<Kernel> {
  const { label, source } = descriptor;
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ label, code: source });
  const layout = device.createBindGroupLayout({
    label,
    entries: descriptor.bindings.flatMap((kind, binding) =>
      kind ? [{ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type: BUFFER_TYPE[kind] } }] : [],
    ),
  });
  const pipelineLayout = device.createPipelineLayout({ label, bindGroupLayouts: [layout] });
  const scope = device.popErrorScope();
  const compute = { module, entryPoint: descriptor.entryPoint ?? "main" };
  const pipeline = await device
    .createComputePipelineAsync({ label, layout: pipelineLayout, compute })
    .catch(async (error: Error) => {
      const details = formatCompileErrors(label, source, await module.getCompilationInfo());
      throw new ShaderCompileError(`${label}: ${details || error.message}`, { cause: error });
    });
  const error = await scope;
  if (error) throw new ShaderCompileError(`${label}: ${error.message}`);
  return { label, pipeline, layout };
}

/**
 * The compiled kernel, from the device's cache where it is there. Concurrent requests for one source share one compile.
 * @throws {ShaderCompileError} with file, line, column and the offending line.
 */
export function getKernel(device: GPUDevice, descriptor: PipelineDescriptor): Promise<Kernel> {
  let cache = caches.get(device);
  if (!cache) caches.set(device, (cache = new Map()));
  const key = `${descriptor.entryPoint ?? "main"}|${descriptor.bindings.join()}|${descriptor.source}`;
  let kernel = cache.get(key);
  if (!kernel) {
    kernel = compile(device, descriptor);
    // A failed compile (a lost device, say) is not remembered.
    kernel.catch(() => cache.delete(key));
    cache.set(key, kernel);
  }
  return kernel;
}
