/** A page in GPU memory that can be filled, and where in such pages new tokens go. */
import { release } from "../gpu/buffers.ts";
import type { TokenPositions } from "../kernels/attention-types.ts";
import { type BlockPage, type HostPage, PositionList } from "./kv-page.ts";
import { lastPosition } from "./shard.ts";
import type { TokenRange } from "./types.ts";

/** A page in GPU memory that can be filled; positions ascend within it. */
export class FillingPage implements BlockPage {
  readonly memory = "gpu";
  private readonly tokens: PositionList;
  private isListWritten = false;

  constructor(
    private readonly device: GPUDevice,
    readonly key: GPUBuffer,
    readonly value: GPUBuffer,
    private readonly list: GPUBuffer,
    readonly capacity: number,
  ) {
    this.tokens = new PositionList(capacity);
  }

  get count(): number {
    return this.tokens.count;
  }
  get minPosition(): number {
    return this.tokens.minPosition;
  }
  get maxPosition(): number {
    return this.tokens.maxPosition;
  }
  get positions(): TokenPositions {
    return this.tokens.affine ?? { positions: this.list, min: this.tokens.minPosition, max: this.tokens.maxPosition };
  }
  /** Position of every row, as the host keeps them; a view. */
  get positionList(): Uint32Array<ArrayBuffer> {
    return this.tokens.since(0);
  }

  /** Positions of the tokens held, as the host keeps them. */
  hostPositions(): HostPage["positions"] {
    return this.tokens.affine ?? this.tokens.since(0).slice();
  }

  /** The list on the GPU is written from the moment that start and stride no longer say it all. */
  push(range: TokenRange): void {
    const before = this.tokens.count;
    this.tokens.push(range);
    if (this.tokens.affine) return;
    const from = this.isListWritten ? before : 0;
    this.device.queue.writeBuffer(this.list, from * 4, this.tokens.since(from));
    this.isListWritten = true;
  }

  /** Forgets all rows from `count` on. */
  truncate(count: number): void {
    this.tokens.truncate(count);
    if (this.tokens.affine) this.isListWritten = false;
  }

  clear(): void {
    this.truncate(0);
  }

  release(): void {
    for (const buffer of [this.key, this.value, this.list]) release(buffer);
  }
}

/**
 * Capacities of new pages for so many tokens.
 * @param foreseen Tokens that will come, these included, where that is known: the last page is no larger than that takes.
 */
export function pageCapacities(tokens: number, pageSize: number, foreseen = Number.POSITIVE_INFINITY): number[] {
  const capacities: number[] = [];
  for (let taken = 0; taken < tokens; taken += capacities.at(-1)!)
    capacities.push(Math.min(pageSize, foreseen > taken ? Math.max(foreseen, tokens) - taken : pageSize));
  return capacities;
}

/** What {@link placeTokens} asks of a page. */
export interface PageRoom {
  readonly count: number;
  readonly capacity: number;
  readonly maxPosition: number;
}

/** Where a run of new tokens goes. */
export interface Placement {
  /** Index of the page; past the last one where it has to be added. */
  page: number;
  /** First row there. */
  row: number;
  range: TokenRange;
  /** The run's first token, counted over all ranges. */
  first: number;
}

/**
 * Where new tokens go, in their order: to the page whose last position comes closest before theirs, for positions ascend
 * within a page; else to an empty one; else to a new one.
 */
export function placeTokens(
  pages: readonly PageRoom[],
  ranges: readonly TokenRange[],
  pageSize: number,
): { placements: Placement[]; missingPages: number } {
  const rooms = pages.map(({ count, capacity, maxPosition }) => ({
    count,
    capacity,
    last: count > 0 ? maxPosition : -1,
  }));
  const placements: Placement[] = [];
  let first = 0;
  for (const range of ranges)
    for (let done = 0; done < range.count; ) {
      const start = range.start + done * range.stride;
      let page = -1;
      for (const [index, room] of rooms.entries())
        if (room.count < room.capacity && room.last < start && (page < 0 || room.last > rooms[page]!.last))
          page = index;
      if (page < 0) page = rooms.push({ count: 0, capacity: pageSize, last: -1 }) - 1;
      const room = rooms[page]!;
      const part = { ...range, start, count: Math.min(room.capacity - room.count, range.count - done) };
      placements.push({ page, row: room.count, range: part, first });
      room.count += part.count;
      room.last = lastPosition(part);
      done += part.count;
      first += part.count;
    }
  return { placements, missingPages: rooms.length - pages.length };
}
