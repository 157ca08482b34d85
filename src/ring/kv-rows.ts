/** Rows of K/V pages on their way to host memory: what moves, replicas and exports are made of. */
import { OptionError } from "../errors.ts";
import { allocate, release } from "../gpu/buffers.ts";
import { untilAborted } from "./abort.ts";
import type { FillingPage } from "./filling-page.ts";
import { lowerBound } from "./positions.ts";

/** K/V of some tokens in host memory, rows packed. */
export interface HostTokens {
  /** `[n, K, D]` */
  key: Uint8Array<ArrayBuffer>;
  /** `[n, K, E]` */
  value: Uint8Array<ArrayBuffer>;
}

/** Rows of one page that follow each other. */
export interface PageRows {
  page: FillingPage;
  row: number;
  count: number;
}

/** Bytes read back at once. */
const READ_BYTES = 1 << 22;
/** Copy destination and map for reading (the flags' values: GPUBufferUsage may not exist yet). */
const MAP_READ = 0x1 | 0x8;

/** Where these positions lie, in their order. @throws {OptionError} where one is not held. */
export function findRows(
  where: string,
  pages: readonly FillingPage[],
  positions: Uint32Array<ArrayBuffer>,
): PageRows[] {
  const runs: PageRows[] = [];
  for (const position of positions) {
    const run = runs.at(-1);
    const next = run && run.row + run.count;
    if (run && next! < run.page.count && run.page.positionList[next!] === position) {
      run.count++;
      continue;
    }
    const row = (page: FillingPage) => lowerBound(page.positionList, position);
    const page = pages.find(
      (candidate) =>
        candidate.count > 0 &&
        candidate.minPosition <= position &&
        candidate.maxPosition >= position &&
        candidate.positionList[row(candidate)] === position,
    );
    if (!page) throw new OptionError(`${where}: expected positions that it holds, got ${position}`);
    runs.push({ page, row: row(page), count: 1 });
  }
  return runs;
}

/** Reads rows back, a few MiB at a time. @throws signal.reason @throws {GpuMemoryError} */
export async function readRows(
  device: GPUDevice,
  label: string,
  runs: readonly PageRows[],
  rowBytes: { key: number; value: number },
  signal: AbortSignal,
): Promise<HostTokens> {
  if (rowBytes.key % 4 !== 0 || rowBytes.value % 4 !== 0)
    throw new OptionError(
      `${label}: expected rows of whole 4-byte words to read, got ${rowBytes.key} and ${rowBytes.value} bytes`,
    );
  const rows = runs.reduce((sum, run) => sum + run.count, 0);
  const tokens = { key: new Uint8Array(rows * rowBytes.key), value: new Uint8Array(rows * rowBytes.value) };
  if (rows === 0) return tokens;
  const most = Math.max(1, Math.floor(READ_BYTES / Math.max(rowBytes.key, rowBytes.value)));
  const byteLength = Math.min(rows, most) * Math.max(rowBytes.key, rowBytes.value);
  const staging = await allocate(device, { label: `${label} read`, byteLength, usage: MAP_READ });
  try {
    for (const name of ["key", "value"] as const) {
      const size = rowBytes[name];
      let done = 0;
      let encoder = device.createCommandEncoder({ label: `${label} read` });
      let filled = 0;
      const flush = async () => {
        device.queue.submit([encoder.finish()]);
        await untilAborted(staging.mapAsync(0x1, 0, filled * size), signal);
        tokens[name].set(new Uint8Array(staging.getMappedRange(0, filled * size)), done * size);
        staging.unmap();
        done += filled;
        filled = 0;
        encoder = device.createCommandEncoder({ label: `${label} read` });
      };
      for (const run of runs)
        for (let at = 0; at < run.count; ) {
          const count = Math.min(run.count - at, most - filled);
          encoder.copyBufferToBuffer(run.page[name], (run.row + at) * size, staging, filled * size, count * size);
          filled += count;
          at += count;
          if (filled === most) await flush();
        }
      if (filled > 0) await flush();
    }
  } finally {
    release(staging);
  }
  return tokens;
}
