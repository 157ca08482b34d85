/**
 * The ring over links: a rank gives its block to the next rank and takes one from the previous, n - 1 times. Blocks are read
 * back from the GPU before there is compute to wait for, go on from host memory the moment they are whole, and stream into
 * staging buffers when their turn comes. Two are awaited ahead, so that one travels while the one before it is computed on.
 */
import { LinkError } from "../errors.ts";
import type { Parcel, ParcelKey } from "../link/types.ts";
import { untilAborted } from "./abort.ts";
import { type ExpectedBlock, mostBlockBytes, parseBlock } from "./block-parcel.ts";
import { type BlockExit, type Outgoing, readBlock } from "./block-sender.ts";
import type { KvBlock } from "./kv-block.ts";
import type { RingBlock } from "./kv-page.ts";
import type { RingPlace } from "./rank-types.ts";
import type { RingPlan } from "./ring-plan.ts";
import { kvRankAt, sendRank } from "./schedule.ts";
import { tokenCount } from "./shard.ts";
import type { Staging } from "./staging.ts";
import type { TransportPass } from "./transport.ts";

/** Blocks that are awaited beyond the one that is computed on. */
const AHEAD = 2;

/** A pass of one rank over links. Where anything fails, all of it ends with that reason. */
export interface LinksPass extends TransportPass {
  /** Resolves when the own block is on its way out, as far as that may go before the first compute is submitted. */
  readonly started: Promise<unknown>;
  /** Resolves when everything sent has arrived. */
  finish(): Promise<void>;
}

/** What a pass needs beside its place in the ring. */
export interface LinksParts {
  plan: RingPlan;
  block: KvBlock;
  exit: BlockExit;
  staging: Staging;
  pageSize: number;
  /** Ends the whole pass. */
  fail: (reason: unknown) => void;
}

/** A promise whose failure is somebody else's to report. */
export function quiet<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

/**
 * Begins a pass: the receives are posted and the own block's way out begins, at once. The block must hold what the plan says.
 */
export function beginLinksPass(place: RingPlace, parts: LinksParts, signal: AbortSignal): LinksPass {
  const { rank, worldSize, epoch, op, layer, wireDtype } = place;
  const { plan, exit, fail } = parts;
  const next = sendRank(rank, worldSize);
  const keyOf = (owner: number): ParcelKey => ({ epoch, op, layer, kind: "block", rank: owner });
  const expected = (owner: number): ExpectedBlock => ({
    owner,
    positions: plan.travelling(owner),
    keyWidth: exit.keyWidth,
    valueWidth: exit.valueWidth,
    bytesPerElement: wireDtype === "f16" ? 2 : 4,
  });
  const guard = <T>(work: Promise<T>): Promise<T> => {
    work.catch(fail);
    return work;
  };

  const sends: Promise<void>[] = [];
  const send = (owner: number, bytes: Outgoing["parts"], byteLength: number): Promise<void> => {
    const sent = guard(place.next!.send(keyOf(owner), bytes, byteLength, signal));
    sends.push(sent);
    return sent;
  };
  let started: Promise<unknown> = Promise.resolve();
  if (worldSize > 1 && plan.hasBlock(rank, next)) {
    const out = readBlock(exit, parts.block, rank, plan.travelling(rank), signal);
    started = out.started;
    send(rank, out.parts, out.byteLength);
  }

  /** Resolves when the ring's loop has come to this step: the block of the step before is done with. */
  const reached = Array.from({ length: worldSize }, () => {
    let resolve = () => {};
    return { promise: new Promise<void>((done) => (resolve = done)), resolve: () => resolve() };
  });
  const forwarded: Promise<unknown>[] = [];
  const arrivals: Promise<RingBlock>[] = [];

  /** The block of a step, from the previous rank; it goes on to the next before it is looked at. */
  async function arrive(step: number): Promise<RingBlock> {
    const owner = kvRankAt(rank, step, worldSize);
    if (!plan.hasBlock(owner, rank)) return { kvRank: owner, tokenCount: tokenCount(place.held[owner]!), pages: [] };
    // No more than the block that is computed on and two ahead are in host memory.
    const earlier = step - AHEAD - 1;
    if (earlier >= 0) await untilAborted(Promise.all([reached[earlier + 1]!.promise, forwarded[earlier]]), signal);
    const block = expected(owner);
    const parcel = await place.previous!.receive(keyOf(owner), mostBlockBytes(block), signal);
    const { bytes } = parcel;
    const parsed = parseBlock(bytes, block, parts.pageSize, place.previous!.peerId);
    if (owner !== next && plan.hasBlock(owner, next)) forwarded[step] = quiet(send(owner, [bytes], bytes.byteLength));
    return { ...parsed, arrival: { transferMs: travelMs(parcel), receivedBytes: bytes.byteLength } };
  }
  for (let step = 1; step < worldSize; step++) arrivals[step] = quiet(guard(arrive(step)));

  let step = 0;
  return {
    ranks: [rank],
    stepFields: { rotation: place.rotation, queryRank: rank, receivedBytes: 0, multiplyAdds: 0 },
    started,
    async sendRecv() {
      reached[step++]!.resolve();
      return untilAborted(arrivals[step]!, signal);
    },
    bring: (page) => parts.staging.bring(page, signal),
    async finish() {
      await Promise.all(sends);
    },
  };
}

/** From a parcel's first frame to its last. */
export const travelMs = (parcel: Parcel): number => Math.max(0, parcel.endMs - parcel.startMs);

/** @throws {LinkError} "violation" where a parcel is not as long as the plan says. */
export function expectLength(parcel: Parcel, byteLength: number, from: string): void {
  if (parcel.bytes.byteLength === byteLength) return;
  throw new LinkError(
    `attend: expected ${parcel.key.kind} of rank ${parcel.key.rank} from ${from} of ${byteLength} bytes, got ${parcel.bytes.byteLength}`,
    "violation",
  );
}
