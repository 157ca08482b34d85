/** K/V of another rank's tokens, kept in host memory by position. Pure. */
import { PeerError } from "../errors.ts";
import type { HeldTokens } from "../model/rank-types.ts";
import { positionsOf, tokenCount } from "../ring/shard.ts";
import type { TokenRange } from "../ring/types.ts";
import { unionOf } from "./holdings.ts";

/** Tokens that came together: row i of every layer is the i-th position. */
interface Batch {
  layers: readonly Uint8Array<ArrayBuffer>[];
  count: number;
  /** Of its rows that are still wanted. */
  live: number;
}

/** Sizes that all batches have. */
export interface ReplicaShape {
  layerCount: number;
  /** Of keys and values in all layers. */
  kvBytesPerToken: number;
}

/** See the module's comment. */
export class ReplicaStore {
  private readonly places = new Map<number, { batch: Batch; row: number }>();
  private readonly batches = new Set<Batch>();

  constructor(private readonly shape: ReplicaShape) {}

  get tokens(): number {
    return this.places.size;
  }

  /** Bytes of host memory held. */
  get byteLength(): number {
    let rows = 0;
    for (const { count } of this.batches) rows += count;
    return rows * this.shape.kvBytesPerToken;
  }

  get ranges(): TokenRange[] {
    return unionOf([...this.places.keys()].map((start) => ({ start, stride: 1, count: 1 })));
  }

  has(position: number): boolean {
    return this.places.has(position);
  }

  /**
   * Keeps tokens; positions that are there already are replaced.
   * @throws {PeerError} where the bytes do not fit the ranges.
   */
  put({ ranges, layers }: HeldTokens): void {
    const count = tokenCount(ranges);
    const { layerCount, kvBytesPerToken } = this.shape;
    const layerBytes = (count * kvBytesPerToken) / layerCount;
    if (layers.length !== layerCount || layers.some(({ byteLength }) => byteLength !== layerBytes))
      throw new PeerError(
        `ReplicaStore.put: expected ${layerCount} layers of ${layerBytes} bytes for ${count} tokens, got ${layers.map(({ byteLength }) => byteLength).join(", ") || "none"}`,
      );
    if (count === 0) return;
    const batch: Batch = { layers, count, live: 0 };
    this.batches.add(batch);
    let row = 0;
    for (const position of positionsOf(ranges)) {
      this.forget(position);
      this.places.set(position, { batch, row: row++ });
      batch.live++;
    }
  }

  /** Copies of tokens, rows in the order of the ranges. @throws {PeerError} for one that is not here. */
  take(ranges: readonly TokenRange[]): HeldTokens {
    const { layerCount, kvBytesPerToken } = this.shape;
    const rowBytes = kvBytesPerToken / layerCount / 2;
    const count = tokenCount(ranges);
    const layers = Array.from({ length: layerCount }, () => new Uint8Array(count * rowBytes * 2));
    let to = 0;
    for (const position of positionsOf(ranges)) {
      const place = this.places.get(position);
      if (!place) throw new PeerError(`ReplicaStore.take: expected a token that is kept, got position ${position}`);
      const { batch, row } = place;
      // Keys first, then values.
      for (const [layer, bytes] of layers.entries())
        for (const half of [0, 1]) {
          const from = (half * batch.count + row) * rowBytes;
          bytes.set(batch.layers[layer]!.subarray(from, from + rowBytes), (half * count + to) * rowBytes);
        }
      to++;
    }
    return { ranges, layers };
  }

  /** Forgets all but these positions. A batch of which less than half is left is packed anew. */
  retain(ranges: readonly TokenRange[]): void {
    const wanted = new Set(positionsOf(ranges));
    for (const position of this.places.keys()) if (!wanted.has(position)) this.forget(position);
    for (const batch of [...this.batches]) {
      if (batch.live * 2 >= batch.count) continue;
      const left = [...this.places].flatMap(([start, place]) =>
        place.batch === batch ? [{ start, stride: 1, count: 1 }] : [],
      );
      this.put(this.take(unionOf(left)));
    }
  }

  clear(): void {
    this.places.clear();
    this.batches.clear();
  }

  private forget(position: number): void {
    const place = this.places.get(position);
    if (!place) return;
    this.places.delete(position);
    if (--place.batch.live === 0) this.batches.delete(place.batch);
  }
}
