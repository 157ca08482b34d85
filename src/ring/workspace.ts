/** A pass's own GPU memory (query shards, states, outputs), kept between passes so that a model's layers share it. */
import { type AllocateOptions, allocateAll, type BufferView, release } from "../gpu/buffers.ts";
import type { MemoryLedger } from "../gpu/ledger.ts";

/** What a pass asks for. */
export interface WorkspaceRequest extends AllocateOptions {
  /** Names the buffer within the workspace: asked for again, it is the same buffer, if large enough. */
  key: string;
}

/** Buffers by name that only ever grow. */
export class Workspace {
  private readonly buffers = new Map<string, GPUBuffer>();
  private isReleased = false;

  constructor(
    private readonly device: GPUDevice,
    private readonly ledger: MemoryLedger,
  ) {}

  /** Takes whatever is missing or too small. @throws {GpuMemoryError} */
  async prepare(requests: readonly WorkspaceRequest[]): Promise<void> {
    const missing = requests.filter(({ key, byteLength }) => (this.buffers.get(key)?.size ?? 0) < byteLength);
    for (const { key } of missing) {
      release(this.buffers.get(key));
      this.buffers.delete(key);
    }
    if (missing.length === 0) return;
    const { ledger } = this;
    const made = await allocateAll(
      this.device,
      missing.map((request) => ({ ...request, ledger })),
    );
    missing.forEach(({ key }, index) => {
      if (this.isReleased) release(made[index]);
      else this.buffers.set(key, made[index]!);
    });
  }

  /** A buffer that was prepared, cut to its first `byteLength` bytes. */
  view(key: string, byteLength: number): Required<BufferView> {
    return { buffer: this.buffers.get(key)!, byteOffset: 0, byteLength };
  }

  release(): void {
    this.isReleased = true;
    for (const buffer of this.buffers.values()) release(buffer);
    this.buffers.clear();
  }
}

/** Workspaces of passes under way, and one that waits for the next: passes may run beside each other. */
export class WorkspacePool {
  private spare: Workspace | undefined;
  private readonly taken = new Set<Workspace>();

  constructor(
    private readonly device: GPUDevice,
    /** Where the bytes are entered besides the device's own ledger. */
    private readonly ledger: MemoryLedger,
  ) {}

  take(): Workspace {
    const workspace = this.spare ?? new Workspace(this.device, this.ledger);
    this.spare = undefined;
    this.taken.add(workspace);
    return workspace;
  }

  /** Takes a workspace back; with `keep` it waits for the next pass. */
  give(workspace: Workspace, keep: boolean): void {
    if (!this.taken.delete(workspace)) return;
    if (keep && !this.spare) this.spare = workspace;
    else workspace.release();
  }

  destroy(): void {
    this.spare?.release();
    for (const workspace of this.taken) workspace.release();
    this.spare = undefined;
    this.taken.clear();
  }
}
