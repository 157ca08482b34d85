/**
 * The K/V that one rank keeps of a context, in all layers, and what of it counts: tokens are kept layer by layer as an
 * operation goes, and become part of what is held only when they are in every layer and are committed.
 */
import { OptionError } from "../errors.ts";
import type { BufferSource } from "../gpu/buffers.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import type { KvBlock, KvBlockMark } from "../ring/kv-block.ts";
import { formatRanges, listPositions } from "../ring/positions.ts";
import { tokenCount } from "../ring/shard.ts";
import type { TokenRange } from "../ring/types.ts";
import type { HeldTokens } from "./rank-types.ts";
import { addRanges, areSameTokens, mergeRanges, withoutRanges } from "./token-ranges.ts";

/** Bytes of an export that are on their way from the GPU at once, if it is more than a layer. */
const EXPORT_BYTES = 1 << 23;

/** One rank's blocks, one per layer. */
export class RankCache {
  /** Committed: in every layer. */
  private committed: readonly TokenRange[] = [];
  /** Kept since, per layer. */
  private pending: TokenRange[][];
  /** An operation failed between what it kept: only {@link rollback} helps. */
  private isBroken = false;
  /** What the blocks held at the last commit. */
  private marks: KvBlockMark[];

  constructor(
    readonly blocks: readonly KvBlock[],
    /** Bytes of one token's keys in one layer; its values take as many. */
    private readonly rowBytes: number,
  ) {
    this.pending = blocks.map(() => []);
    this.marks = blocks.map((block) => block.mark());
  }

  /** Positions whose K/V is here in every layer, and committed. */
  get held(): readonly TokenRange[] {
    return this.committed;
  }

  get gpuBytes(): number {
    return this.blocks.reduce((sum, block) => sum + block.gpuBytes, 0);
  }

  /** Something was kept since the last commit. */
  get hasPending(): boolean {
    return this.pending.some((ranges) => ranges.length > 0);
  }

  /** True where a position is held, or was kept in this layer since. */
  holds(layer: number, position: number): boolean {
    return [...this.committed, ...this.pending[layer]!].some(
      ({ start, stride, count }) =>
        position >= start && (position - start) % stride === 0 && (position - start) / stride < count,
    );
  }

  /** Room for more tokens in a layer. @throws {GpuMemoryError} */
  reserve(layer: number, ranges: readonly TokenRange[]): Promise<void> {
    return this.blocks[layer]!.reserve(ranges);
  }

  /** Encodes the keeping of packed rows, at positions of `ranges`, in a layer that has {@link reserve}d room. */
  encodeAppend(
    target: CommandTarget,
    layer: number,
    tensors: { key: BufferSource; value: BufferSource; ranges: readonly TokenRange[] },
  ): void {
    this.blocks[layer]!.encodeAppend(target, tensors);
    this.pending[layer]!.push(...tensors.ranges);
  }

  /** Tokens that wait for a commit, summed over the layers. */
  get pendingCount(): number {
    return this.pending.reduce((sum, ranges) => sum + tokenCount(ranges), 0);
  }

  /** An operation has failed that began with so many tokens waiting: what it kept must be rolled back. */
  fail(pendingBefore: number): void {
    if (this.pendingCount !== pendingBefore) this.isBroken = true;
  }

  /** @throws {OptionError} after a failure, or where layers do not agree on what was kept. */
  commit(): void {
    if (this.isBroken)
      throw new OptionError("commit: expected an operation that went well, got one that failed: roll back");
    if (!this.hasPending) return;
    const [first, ...others] = this.pending.map((ranges) => mergeRanges("commit", ranges));
    for (const [index, ranges] of others.entries())
      if (!areSameTokens("commit", first!, ranges))
        throw new OptionError(
          `commit: expected an operation that went through all layers, got ${formatRanges(first!)} in layer 0 and ${formatRanges(ranges)} in layer ${index + 1}: roll back`,
        );
    this.became(addRanges("commit", this.committed, first!));
  }

  /** Forgets what was kept since the last commit. */
  rollback(): void {
    for (const [layer, block] of this.blocks.entries()) {
      block.rollback(this.marks[layer]!);
      block.trim();
    }
    this.pending = this.blocks.map(() => []);
    this.isBroken = false;
  }

  /** Forgets these positions; those that are not held are not missed. After a failure nothing is held. */
  async drop(ranges: readonly TokenRange[] | undefined): Promise<void> {
    this.expectCommitted("drop");
    if (!ranges) {
      this.clear();
      return;
    }
    const left = withoutRanges("drop", this.committed, ranges);
    if (tokenCount(left) === tokenCount(this.committed)) return;
    const gone = withoutRanges("drop", this.committed, left);
    const dropped = await Promise.allSettled(this.blocks.map((block) => block.drop(gone)));
    const failed = dropped.find((one) => one.status === "rejected");
    if (!failed) return this.became(left);
    // Layers that disagree on a position would let it count twice, or not at all.
    this.clear();
    throw failed.reason;
  }

  /** @throws {OptionError} for positions that are not held. */
  async exportTokens(ranges: readonly TokenRange[], signal: AbortSignal): Promise<HeldTokens> {
    this.expectCommitted("exportTokens");
    const sorted = mergeRanges("exportTokens", ranges);
    const missing = withoutRanges("exportTokens", sorted, this.committed);
    if (missing.length > 0)
      throw new OptionError(
        `exportTokens: expected positions that are held (${formatRanges(this.committed)}), got ${formatRanges(missing)}`,
      );
    const layers: Uint8Array<ArrayBuffer>[] = [];
    const layerBytes = 2 * tokenCount(sorted) * this.rowBytes;
    // Few tokens: all layers at once, for each waits on the GPU process. Many: one after the other, for the memory on the way.
    const together = Math.max(1, Math.floor(EXPORT_BYTES / Math.max(1, layerBytes)));
    for (let from = 0; from < this.blocks.length; from += together) {
      signal.throwIfAborted();
      const reads = this.blocks.slice(from, from + together).map((block) => block.readTokens(sorted, signal));
      // Whichever fails: nothing goes on afterwards.
      await Promise.allSettled(reads);
      for (const { key, value } of await Promise.all(reads)) {
        const bytes = new Uint8Array(layerBytes);
        bytes.set(key);
        bytes.set(value, key.byteLength);
        layers.push(bytes);
      }
    }
    return { ranges: sorted, layers };
  }

  /** Keeps and commits. After a failure everything is as before. */
  async importTokens({ ranges, layers }: HeldTokens, signal: AbortSignal): Promise<void> {
    this.expectCommitted("importTokens");
    const sorted = mergeRanges("importTokens", ranges);
    const count = tokenCount(sorted);
    if (listPositions(ranges).some((position, index, list) => index > 0 && position < list[index - 1]!))
      throw new OptionError(`importTokens: expected ascending positions, got ${formatRanges(ranges)}`);
    if (layers.length !== this.blocks.length)
      throw new OptionError(`importTokens: expected ${this.blocks.length} layers, got ${layers.length}`);
    const wrong = layers.find((bytes) => bytes.byteLength !== 2 * count * this.rowBytes);
    if (wrong)
      throw new OptionError(
        `importTokens: expected ${2 * count * this.rowBytes} bytes of each layer (${count} tokens), got ${wrong.byteLength}`,
      );
    const together = mergeRanges("importTokens", this.committed, sorted);
    try {
      for (const [layer, block] of this.blocks.entries()) {
        signal.throwIfAborted();
        const half = layers[layer]!.byteLength / 2;
        const [key, value] = [layers[layer]!.subarray(0, half), layers[layer]!.subarray(half)];
        await block.writeTokens(sorted, { key, value });
        signal.throwIfAborted();
      }
    } catch (error) {
      this.rollback();
      throw error;
    }
    this.became(together);
  }

  /** Forgets everything and frees its memory. */
  private clear(): void {
    for (const block of this.blocks) {
      block.clear();
      block.trim();
    }
    this.became([]);
  }

  /** What the blocks hold now is what is held. */
  private became(held: readonly TokenRange[]): void {
    this.committed = held;
    this.pending = this.blocks.map(() => []);
    this.marks = this.blocks.map((block) => block.mark());
  }

  release(): void {
    for (const block of this.blocks) block.release();
    this.committed = [];
    this.pending = this.blocks.map(() => []);
  }

  /** @throws {OptionError} where something waits for a commit. */
  expectCommitted(where: string): void {
    if (!this.hasPending) return;
    throw new OptionError(
      `${where}: expected the last operation to be committed or rolled back, got ${formatRanges(this.pending[0]!)} waiting`,
    );
  }
}
