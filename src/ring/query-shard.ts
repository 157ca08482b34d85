/** A rank's queries: cut into pieces of moderate size, each with the state that goes from step to step. */
import { ShapeError } from "../errors.ts";
import { type BufferSource, type BufferView, viewOf } from "../gpu/buffers.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import type { ResolvedAttention } from "../kernels/attention-options.ts";
import type { AttentionStepper } from "../kernels/attention-stepper.ts";
import type { AttentionMask, TokenPositions } from "../kernels/attention-types.ts";
import type { TokenCopier } from "../kernels/copy-tokens.ts";
import type { GpuPage, KvPage } from "./kv-page.ts";
import { isIntervalHidden, type MaskRule } from "./schedule.ts";
import { cutRanges, lastPosition, positionsOf, tokenCount } from "./shard.ts";
import type { TokenRange } from "./types.ts";
import type { Workspace, WorkspaceRequest } from "./workspace.ts";

/** The compiled kernels of a ring, and the options that they were made from. */
export interface RingKernels {
  device: GPUDevice;
  resolved: ResolvedAttention;
  rule: MaskRule;
  stepper: AttentionStepper;
  /** Copies elements of the ring's dtype. */
  copier: TokenCopier;
  /** Copies f32 and u32. */
  wordCopier: TokenCopier;
  /** Most query tokens that one dispatch meets: bounds its time on slow adapters. */
  pieceTokens: number;
}

/** Queries, where their results go, and what else of the mask they bring along. Whole tensors, in token order. */
export interface QueryTensors {
  /** `[B, T, H, D]` */
  query: BufferSource;
  /** `[B, T, H, E]` */
  output: BufferSource;
  /** f32 `[B, H, T]` */
  lse?: BufferSource;
  batch: number;
  seqLen: number;
  /** Position of the first query. */
  firstPosition: number;
  /** Rows follow each other as the shard's positions do, whatever those are (one shard, one batch entry, no lse). */
  isPacked?: boolean;
  /** Position of the first key, where a mask's columns begin unless it says otherwise. Default 0. */
  kvStart?: number;
  mask?: AttentionMask;
  /** u32 `[B, T]` */
  querySegments?: BufferSource;
  /** u32 `[B]` */
  kvLengths?: BufferSource;
  /** f32 `[H]` */
  sinks?: BufferSource;
}

/** What only shards of queries that travel need. */
export interface ShardPlanOptions {
  /** Of its memory. Default: the rank. */
  name?: string;
  /** Tokens of a piece, where all ranks must cut alike. Default: what suits the device. */
  mostTokens?: number;
  /** Memory for states that come from elsewhere. */
  hasIncoming?: boolean;
}

/** See {@link QueryShard.plan}. */
export interface ShardPlan {
  requests: readonly WorkspaceRequest[];
  build(workspace: Workspace): QueryShard;
}

/** A run of fewer tokens is gathered with its neighbours rather than met by dispatches of its own. */
const DIRECT_TOKENS = 256;
/** Where in a buffer any binding may begin. */
const ALIGNMENT = 256;
const aligned = (byteLength: number) => Math.ceil(byteLength / ALIGNMENT) * ALIGNMENT;

interface Piece {
  ranges: TokenRange[];
  count: number;
  minPosition: number;
  maxPosition: number;
  /** Query and output are views of the whole tensors: nothing is copied. */
  isDirect: boolean;
  isLseDirect: boolean;
  query: BufferView;
  output: BufferView;
  lse?: BufferView;
  state: BufferView;
  /** A state that came from elsewhere, to be merged. */
  incoming?: BufferView;
  positions: TokenPositions;
  segments?: BufferView;
  hasMet: boolean;
}

/** @throws {ShapeError} where a view holds fewer bytes than its shape takes. */
export function expectBytes(where: string, name: string, source: BufferSource, byteLength: number): void {
  const view = viewOf(source);
  const got = Math.min(view.byteLength, view.buffer.size - view.byteOffset);
  if (got < byteLength)
    throw new ShapeError(`${where}: expected ${name} of at least ${byteLength} bytes, got ${got} bytes`);
}

/** Pieces' ranges: each run by itself where it can be met in place, else gathered in groups of at most `most` tokens. */
function cutShard(ranges: readonly TokenRange[], most: number, isDirect: boolean): TokenRange[][] {
  if (isDirect) return cutRanges(ranges, most).map((range) => [range]);
  const groups: TokenRange[][] = [];
  let free = 0;
  for (const range of ranges)
    for (let done = 0; done < range.count; ) {
      if (free === 0) {
        groups.push([]);
        free = most;
      }
      const count = Math.min(free, range.count - done);
      groups.at(-1)!.push({ ...range, start: range.start + done * range.stride, count });
      done += count;
      free -= count;
    }
  return groups;
}

/** Groups of packed rows, each ascending: long runs by themselves, so that their pages are skipped exactly. */
function cutPacked(ranges: readonly TokenRange[], most: number): TokenRange[][] {
  const groups: TokenRange[][] = [];
  let free = 0;
  for (const range of cutRanges(ranges, most)) {
    const last = groups.at(-1)?.at(-1);
    const joins =
      last &&
      range.count <= free &&
      range.start > lastPosition(last) &&
      range.count < DIRECT_TOKENS &&
      last.count < DIRECT_TOKENS;
    if (joins) groups.at(-1)!.push(range);
    else {
      groups.push([range]);
      free = most;
    }
    free -= range.count;
  }
  return groups;
}

/** The queries of one rank. */
export class QueryShard {
  readonly tokens: number;

  private constructor(
    private readonly kernels: RingKernels,
    private readonly tensors: QueryTensors,
    readonly rank: number,
    private readonly pieces: Piece[],
  ) {
    this.tokens = pieces.reduce((sum, piece) => sum + piece.count, 0);
  }

  /** Shards the queries of these ranks, in their order, with memory from the workspace. @throws {GpuMemoryError} */
  static async createAll(
    kernels: RingKernels,
    workspace: Workspace,
    tensors: QueryTensors,
    shards: readonly (readonly TokenRange[])[],
    ranks: readonly number[],
  ): Promise<QueryShard[]> {
    const plans = ranks.map((rank) => QueryShard.plan(kernels, tensors, shards[rank]!, rank));
    await workspace.prepare(plans.flatMap((plan) => plan.requests));
    return plans.map((plan) => plan.build(workspace));
  }

  /** Says what memory a shard takes; it is built once that has been prepared (of several plans of one `name`, the most). */
  static plan(
    kernels: RingKernels,
    tensors: QueryTensors,
    ranges: readonly TokenRange[],
    rank: number,
    options: ShardPlanOptions = {},
  ): ShardPlan {
    const { requests, build } = planShard(kernels, tensors, ranges, rank, options);
    return { requests, build: (workspace) => new QueryShard(kernels, tensors, rank, build(workspace)) };
  }

  /** The states of the pieces, in order: what goes around where the queries do. */
  get states(): readonly Required<BufferView>[] {
    return this.pieces.map(({ state }) => viewOf(state));
  }

  /** Where states that come from elsewhere are written, for {@link encodeMerge}. */
  get incoming(): readonly Required<BufferView>[] {
    return this.pieces.map(({ incoming }) => viewOf(incoming!));
  }

  /** Encodes the merge of the states that have come into these. */
  encodeMerge(target: CommandTarget): void {
    for (const piece of this.pieces) {
      const states = { states: piece.incoming!, parts: 1, partByteStride: 0 };
      const into = { into: piece.state, keepInto: piece.hasMet, batch: 1, seqLen: piece.count };
      this.kernels.stepper.encodeMerge(target, { ...states, ...into });
      piece.hasMet = true;
    }
  }

  /** True where the mask hides the whole page from every query here. */
  cannotSee(page: KvPage): boolean {
    return this.pieces.every((piece) => this.isHidden(piece, page));
  }

  /** Encodes the gathering of queries that cannot be met in place. */
  encodeGather(target: CommandTarget): void {
    const { copier, wordCopier, resolved } = this.kernels;
    const { query, querySegments, batch, seqLen } = this.tensors;
    const row = resolved.heads * resolved.headDim;
    for (const piece of this.pieces) {
      if (piece.isDirect) continue;
      this.encodeRows(piece, (range, done) => {
        const rows = { outer: batch, tokens: range.count };
        copier.encode(target, {
          ...{ ...rows, width: row, source: this.rowsOf(query, range, row * resolved.bytesPerElement) },
          ...{ sourceStrides: { outer: seqLen * row, token: range.stride * row } },
          ...{ target: shift(piece.query, done * row * resolved.bytesPerElement) },
          ...{ targetStrides: { outer: piece.count * row, token: row } },
        });
        if (piece.segments)
          wordCopier.encode(target, {
            ...{ ...rows, width: 1, source: this.rowsOf(querySegments!, range, 4) },
            ...{ sourceStrides: { outer: seqLen, token: range.stride } },
            ...{ target: shift(piece.segments, done * 4), targetStrides: { outer: piece.count, token: 1 } },
          });
      });
    }
  }

  /**
   * The queries meet a page: encodes one dispatch per piece that may see something of it, and yields the dispatch's
   * multiply-adds after each. `force` is for queries that have met nothing at all: they meet the page whatever the mask
   * says, so that their state says "nothing seen".
   */
  *encodeStep(target: () => CommandTarget, page: GpuPage, force = false): Generator<number> {
    const { stepper, resolved } = this.kernels;
    const { batch, kvLengths } = this.tensors;
    for (const piece of this.pieces) {
      if (force ? piece.hasMet : this.isHidden(piece, page)) continue;
      stepper.encodeStep(target(), {
        ...{ query: piece.query, key: page.key, value: page.value, state: piece.state, isFirst: !piece.hasMet },
        ...{ batch, seqLen: piece.count, kvSeqLen: page.count, kvCapacity: page.capacity },
        ...{ queryPositions: piece.positions, kvPositions: page.positions, mask: this.mask() },
        ...{ querySegments: piece.segments, kvSegments: page.segments, kvLengths },
      });
      piece.hasMet = true;
      yield batch * piece.count * page.count * resolved.heads * (resolved.headDim + resolved.valueDim);
    }
  }

  /** True where some queries have met nothing yet, so that their state holds nothing. */
  get hasUnmet(): boolean {
    return this.pieces.some((piece) => !piece.hasMet);
  }

  /** Encodes state -> output and lse, in token order. */
  encodeFinalize(target: CommandTarget): void {
    const { stepper, copier, wordCopier, resolved } = this.kernels;
    const { output, lse, batch, seqLen, sinks } = this.tensors;
    const { heads, valueDim, bytesPerElement } = resolved;
    const row = heads * valueDim;
    for (const piece of this.pieces) {
      const { state, count } = piece;
      if (!piece.hasMet && piece.isDirect && "clearBuffer" in target) {
        // Nobody in the whole ring holds a token.
        target.clearBuffer(piece.output.buffer, piece.output.byteOffset, count * row * bytesPerElement);
        continue;
      }
      const call = { state, output: piece.output, lse: piece.lse, batch, seqLen: count, sinks };
      stepper.encodeFinalize(target, call);
      this.encodeRows(piece, (range, done) => {
        if (!piece.isDirect)
          copier.encode(target, {
            ...{ outer: batch, tokens: range.count, width: row },
            ...{ source: shift(piece.output, done * row * bytesPerElement) },
            ...{ sourceStrides: { outer: count * row, token: row } },
            ...{ target: this.rowsOf(output, range, row * bytesPerElement) },
            ...{ targetStrides: { outer: seqLen * row, token: range.stride * row } },
          });
        if (lse && !piece.isLseDirect)
          wordCopier.encode(target, {
            ...{ outer: batch, tokens: range.count, width: heads },
            ...{ source: shift(piece.lse!, done * 4) },
            ...{ sourceStrides: { outer: heads * count, token: 1, inner: count } },
            ...{ target: this.rowsOf(lse, range, 4) },
            ...{ targetStrides: { outer: heads * seqLen, token: range.stride, inner: seqLen } },
          });
      });
    }
  }

  private isHidden(piece: Piece, page: KvPage): boolean {
    const { minPosition, maxPosition } = piece;
    return isIntervalHidden(minPosition, maxPosition, page.minPosition, page.maxPosition, this.kernels.rule);
  }

  /** The mask's rows count from the whole sequence's first query, not from the shard's, and its columns from the first key. */
  private mask(): AttentionMask | undefined {
    const { mask, firstPosition, kvStart } = this.tensors;
    return mask && { ...mask, queryOrigin: mask.queryOrigin ?? firstPosition, kvOrigin: mask.kvOrigin ?? kvStart };
  }

  private encodeRows(piece: Piece, encode: (range: TokenRange, done: number) => void): void {
    let done = 0;
    for (const range of piece.ranges) {
      encode(range, done);
      done += range.count;
    }
  }

  private rowsOf(source: BufferSource, range: TokenRange, rowBytes: number): BufferView {
    return shift(viewOf(source), (range.start - this.tensors.firstPosition) * rowBytes);
  }
}

const shift = (view: BufferView, bytes: number): BufferView => ({
  buffer: view.buffer,
  byteOffset: (view.byteOffset ?? 0) + bytes,
});

/** Most tokens of a piece: what a dispatch may take, and what state, query and output of all batch entries may bind. */
function tokensPerPiece({ device, resolved, pieceTokens }: RingKernels, batch: number): number {
  const { heads, headDim, valueDim, bytesPerElement } = resolved;
  const { maxStorageBufferBindingSize, maxBufferSize } = device.limits;
  // acc, rowMax and rowSum are f32 whatever the dtype.
  const widest = Math.max((valueDim + 2) * 4, headDim * bytesPerElement, valueDim * bytesPerElement);
  const room = Math.min(maxStorageBufferBindingSize, maxBufferSize) - 2 * ALIGNMENT;
  return Math.max(1, Math.min(pieceTokens, Math.floor(room / (batch * heads * widest))));
}

/** Says what memory a shard needs, and makes its pieces once that is there. */
function planShard(
  kernels: RingKernels,
  tensors: QueryTensors,
  ranges: readonly TokenRange[],
  rank: number,
  { name: shardName = String(rank), mostTokens, hasIncoming }: ShardPlanOptions,
) {
  const { device, stepper, resolved } = kernels;
  const { batch, seqLen, firstPosition } = tensors;
  const { heads, headDim, valueDim, bytesPerElement } = resolved;
  const queryRow = heads * headDim * bytesPerElement;
  const outputRow = heads * valueDim * bytesPerElement;
  const isDirect =
    tensors.isPacked ||
    (batch === 1 &&
      ranges.every((range) => range.stride === 1 && (ranges.length === 1 || range.count >= DIRECT_TOKENS)));
  const most = mostTokens ?? tokensPerPiece(kernels, batch);
  const groups = tensors.isPacked ? cutPacked(ranges, most) : cutShard(ranges, most, isDirect);
  const totals = new Map<string, number>();
  const parts = new Map<string, number>();
  /** Sets bytes aside in the rank's buffer of that name; the view comes when the buffer is there. */
  const reserve = (name: string, byteLength: number): ((workspace: Workspace) => BufferView) => {
    const part = parts.get(name) ?? 0;
    const key = part === 0 ? name : `${name} ${part}`;
    const byteOffset = totals.get(key) ?? 0;
    // Pieces lie side by side until a buffer can grow no further: then the next buffer begins.
    if (byteOffset > 0 && byteOffset + aligned(byteLength) > device.limits.maxBufferSize) {
      parts.set(name, part + 1);
      return reserve(name, byteLength);
    }
    totals.set(key, byteOffset + aligned(byteLength));
    return (workspace: Workspace): BufferView => {
      const { buffer } = workspace.view(`${shardName} ${key}`, 0);
      return { buffer, byteOffset, byteLength };
    };
  };
  let packedRow = 0;
  const builders = groups.map((group) => {
    const count = tokenCount(group);
    const first = group[0]!;
    const isWhole = count === seqLen && group.length === 1 && first.stride === 1;
    const row = tensors.isPacked ? packedRow : first.start - firstPosition;
    packedRow += count;
    const state = reserve("state", stepper.stateByteLength(batch, count));
    const incoming = hasIncoming ? reserve("incoming", stepper.stateByteLength(batch, count)) : undefined;
    const query = isDirect ? undefined : reserve("query", batch * count * queryRow);
    const output = isDirect ? undefined : reserve("output", batch * count * outputRow);
    const lse = tensors.lse && !isWhole ? reserve("lse", batch * heads * count * 4) : undefined;
    const list = group.length > 1 ? reserve("positions", count * 4) : undefined;
    const segments = tensors.querySegments && !isDirect ? reserve("segments", batch * count * 4) : undefined;
    const minPosition = first.start;
    const maxPosition = lastPosition(group.at(-1)!);
    return (workspace: Workspace): Piece => {
      const positions = list?.(workspace);
      if (positions)
        device.queue.writeBuffer(positions.buffer, positions.byteOffset!, Uint32Array.from(positionsOf(group)));
      const inPlace = (source: BufferSource, rowBytes: number): BufferView => shift(viewOf(source), row * rowBytes);
      return {
        ...{ ranges: group, count, minPosition, maxPosition, isDirect, isLseDirect: isWhole, hasMet: false },
        state: state(workspace),
        incoming: incoming?.(workspace),
        query: query?.(workspace) ?? inPlace(tensors.query, queryRow),
        output: output?.(workspace) ?? inPlace(tensors.output, outputRow),
        lse: lse?.(workspace) ?? (tensors.lse && viewOf(tensors.lse)),
        positions: positions
          ? { positions, min: minPosition, max: maxPosition }
          : { start: first.start, stride: first.stride },
        segments: tensors.querySegments && (segments?.(workspace) ?? inPlace(tensors.querySegments, 4)),
      };
    };
  });
  const requests = [...totals].map(
    ([name, byteLength]): WorkspaceRequest => ({
      key: `${shardName} ${name}`,
      label: `${resolved.label} rank ${shardName} ${name}`,
      byteLength,
      owner: rank,
    }),
  );
  return { requests, build: (workspace: Workspace) => builders.map((build) => build(workspace)) };
}
