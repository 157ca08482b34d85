/** All ranks on one device, blocks in host memory: their pages stream through two staging buffers. */
import { createStaging, type StagingSizes } from "./staging.ts";
import type { Transport } from "./transport.ts";
import { beginRotation } from "./transport-local.ts";

/**
 * The transport of `blockMemory: "host"`.
 * @throws {GpuMemoryError}
 */
export async function createHostTransport(device: GPUDevice, sizes: StagingSizes, label: string): Promise<Transport> {
  const staging = await createStaging(device, sizes, label);
  return {
    name: "host",
    beginPass: (worldSize, signal) => ({ ...beginRotation(worldSize), bring: (page) => staging.bring(page, signal) }),
    destroy: () => staging.destroy(),
  };
}
