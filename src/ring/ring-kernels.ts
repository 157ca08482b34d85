/** What a ring is made of before it has met a token: its compiled kernels, and how large its pages and dispatches are. */
import { describeAdapter } from "../gpu/device.ts";
import type { ResolvedAttention } from "../kernels/attention-options.ts";
import type { AttentionStepper } from "../kernels/attention-stepper.ts";
import { createTokenCopier } from "../kernels/copy-tokens.ts";
import { expectInteger } from "../shape.ts";
import type { RingKernels } from "./query-shard.ts";

/**
 * Tokens per page unless given: about 1 MiB of K and V, for every layer and rank of a model holds at least one page; not
 * fewer than 256, for decode encodes one dispatch per page; not more than 1024, so that no dispatch takes long.
 */
const PAGE_BYTES = 1 << 20;
const MIN_PAGE_SIZE = 256;
const MAX_PAGE_SIZE = 1024;
/** Query tokens that one dispatch meets: 512 x 1024 pairs take about 0.1 s per 8 heads of 64 on SwiftShader. */
const PIECE_TOKENS_CPU = 512;
const PIECE_TOKENS_GPU = 8192;

/** Tokens per page, and per dispatch where a sequence lies on the GPU as a whole; both fit one binding. @throws {OptionError} */
export function pageSizes(
  where: string,
  device: GPUDevice,
  rows: { keyRow: number; valueRow: number },
  wanted: number | undefined,
): { pageSize: number; inPlaceSize: number } {
  const { keyRow, valueRow } = rows;
  const mostTokens = Math.floor(device.limits.maxStorageBufferBindingSize / Math.max(keyRow, valueRow));
  const fitting = Math.floor(PAGE_BYTES / (keyRow + valueRow));
  const usual = Math.min(MAX_PAGE_SIZE, Math.max(MIN_PAGE_SIZE, fitting));
  const pageSize = Math.min(expectInteger(where, "pageSize", wanted ?? usual), mostTokens);
  // Tokens that are met in place take no memory.
  return { pageSize, inPlaceSize: Math.min(wanted ?? MAX_PAGE_SIZE, mostTokens) };
}

/** Compiles what goes with the stepper. @throws {UnsupportedDeviceError} for f16 without `shader-f16`. */
export async function ringKernels(
  device: GPUDevice,
  resolved: ResolvedAttention,
  stepper: AttentionStepper,
): Promise<RingKernels> {
  const [copier, wordCopier] = await Promise.all([
    createTokenCopier(device, resolved.dtype),
    createTokenCopier(device, "f32"),
  ]);
  return {
    ...{ device, resolved, stepper, copier, wordCopier },
    rule: {
      isCausal: resolved.isCausal,
      causalBlockSize: resolved.causalBlockSize,
      window: resolved.window || undefined,
    },
    pieceTokens: describeAdapter(device).isCpu ? PIECE_TOKENS_CPU : PIECE_TOKENS_GPU,
  };
}
