/**
 * Decode: K/V stay where they are. The query goes to every rank, each answers with a partial state of the pages it holds,
 * and the states are merged by lse into the output.
 */
import { OptionError } from "../errors.ts";
import { allocate, type BufferView, release } from "../gpu/buffers.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import type { AttentionStepper } from "../kernels/attention-stepper.ts";
import type { GpuPage, KvPage } from "./kv-page.ts";
import type { RingKernels } from "./query-shard.ts";
import type { RingAttendTensors } from "./ring-types.ts";
import { isIntervalHidden } from "./schedule.ts";
import type { TransportPass } from "./transport.ts";
import type { Workspace } from "./workspace.ts";

/** Where any binding may begin. */
const ALIGNMENT = 256;

/** One partial state per rank, side by side in one buffer so that one dispatch merges them. */
export interface DecodeStates {
  buffer: GPUBuffer;
  /** Bytes from a state to the next. */
  byteStride: number;
  byteLength: number;
  destroy(): void;
}

/** Memory for the partial states of `tokens` queries. @throws {GpuMemoryError} */
export async function createDecodeStates(
  device: GPUDevice,
  stepper: AttentionStepper,
  worldSize: number,
  tokens: number,
  label: string,
): Promise<DecodeStates> {
  const byteStride = Math.ceil(stepper.stateByteLength(1, tokens) / ALIGNMENT) * ALIGNMENT;
  const byteLength = worldSize * byteStride;
  const buffer = await allocate(device, { label: `${label} decode states`, byteLength });
  return { buffer, byteStride, byteLength, destroy: () => release(buffer) };
}

/** States of the same size in a workspace, for a decode that takes its time. */
export async function decodeStatesIn(workspace: Workspace, like: DecodeStates): Promise<DecodeStates> {
  const { byteLength, byteStride } = like;
  await workspace.prepare([{ key: "decode states", label: "decode states", byteLength }]);
  return { buffer: workspace.view("decode states", byteLength).buffer, byteLength, byteStride, destroy: () => {} };
}

/** The pages of each rank that the queries may see; where they see none at all, any page, so that the states say so. */
function visiblePages(kernels: RingKernels, tensors: RingAttendTensors): KvPage[][] {
  const { start, count, blocks } = tensors;
  const filled = blocks.map((block) => block.pages.filter((page) => page.count > 0));
  const visible = filled.map((pages) =>
    pages.filter(
      (page) => !isIntervalHidden(start, start + count - 1, page.minPosition, page.maxPosition, kernels.rule),
    ),
  );
  const answering = visible.filter((pages) => pages.length > 0);
  return answering.length > 0 ? answering : [filled.flat().slice(0, 1)];
}

/** The queries meet one page of one rank. */
function encodePage(
  kernels: RingKernels,
  states: DecodeStates,
  target: CommandTarget,
  tensors: RingAttendTensors,
  page: GpuPage,
  part: number,
  isFirst: boolean,
): void {
  const { query, start, count } = tensors;
  const state: BufferView = {
    buffer: states.buffer,
    byteOffset: part * states.byteStride,
    byteLength: states.byteStride,
  };
  kernels.stepper.encodeStep(target, {
    ...{ query, key: page.key, value: page.value, state, isFirst, batch: 1, seqLen: count },
    ...{ kvSeqLen: page.count, kvCapacity: page.capacity },
    ...{ queryPositions: { start }, kvPositions: page.positions },
  });
}

function encodeAnswer(
  kernels: RingKernels,
  states: DecodeStates,
  target: CommandTarget,
  tensors: RingAttendTensors,
  parts: number,
): void {
  const { output, lse, sinks, count } = tensors;
  const merge = { states: states.buffer, parts, partByteStride: states.byteStride, batch: 1, seqLen: count };
  kernels.stepper.encodeMerge(target, { ...merge, output, lse, sinks });
}

/** Decode with every page in GPU memory. @throws {OptionError} where one is not. */
export function encodeDecodeFromPages(
  where: string,
  kernels: RingKernels,
  states: DecodeStates,
  target: CommandTarget,
  tensors: RingAttendTensors,
): void {
  const ranks = visiblePages(kernels, tensors);
  for (const [part, pages] of ranks.entries())
    for (const [index, page] of pages.entries()) {
      if (page.memory !== "gpu")
        throw new OptionError(`${where}: expected blocks in GPU memory, got a page in host memory; use decode`);
      encodePage(kernels, states, target, tensors, page, part, index === 0);
    }
  encodeAnswer(kernels, states, target, tensors, ranks.length);
}

/** Decode with pages anywhere: each is met as it arrives, while the next one is on its way. */
export async function decodeFromPages(
  kernels: RingKernels,
  states: DecodeStates,
  pass: TransportPass,
  tensors: RingAttendTensors,
  signal: AbortSignal,
): Promise<void> {
  const { queue } = kernels.device;
  const ranks = visiblePages(kernels, tensors);
  let encoder = kernels.device.createCommandEncoder({ label: "decode" });
  for (const [part, pages] of ranks.entries())
    for (const [index, page] of pages.entries()) {
      const arrival = await pass.bring(page);
      let done: Promise<unknown> = Promise.resolve();
      try {
        signal.throwIfAborted();
        encodePage(kernels, states, encoder, tensors, arrival.page, part, index === 0);
        if (page.memory === "gpu") continue;
        // The staging buffer is written over as soon as it is free: what reads it must be on the queue by then.
        queue.submit([encoder.finish()]);
        encoder = kernels.device.createCommandEncoder({ label: "decode" });
        done = queue.onSubmittedWorkDone();
      } finally {
        arrival.release(done);
      }
    }
  encodeAnswer(kernels, states, encoder, tensors, ranks.length);
  queue.submit([encoder.finish()]);
}
