/**
 * The ring turned around: K/V stay, and the queries visit every rank. Where a long context is held and few tokens are new,
 * that moves fewer bytes. A rank meets the visitors with its own block into a fresh state; queries go ahead the moment they
 * are here, states follow behind the compute, merged on the way, and come home to the queries' owner:
 *
 *     queries of o:  o -> o+1 -> ... -> o-1        states of o:  o+1 -> o+2 -> ... -> o-1 -> o
 *
 * All of it is f32. Who shows whom something follows from the plan, so what would say "nothing seen" does not travel.
 */
import { type BufferView, viewOf, write } from "../gpu/buffers.ts";
import type { ParcelKey, ParcelKind } from "../link/types.ts";
import { untilAborted } from "./abort.ts";
import { type BlockExit, type Outgoing, readViews } from "./block-sender.ts";
import type { KvBlock } from "./kv-block.ts";
import type { Pacer } from "./pacer.ts";
import { QueryShard, type QueryTensors, type RingKernels } from "./query-shard.ts";
import type { RankStep, RingPlace } from "./rank-types.ts";
import type { RingPlan } from "./ring-plan.ts";
import { kvRankAt, sendRank } from "./schedule.ts";
import { tokenCount } from "./shard.ts";
import { expectLength, quiet, travelMs } from "./transport-links.ts";
import { alreadyThere } from "./transport-local.ts";
import { askFrom, meetPage } from "./turn.ts";
import type { Workspace, WorkspaceRequest } from "./workspace.ts";

/** Visitors have memory for two: one is met, the state of the one before is on its way out. */
const SLOTS = 2;
/** Tokens of a piece at most, and bytes of its state: no device's limits are lower, and all ranks must cut alike. */
const PIECE_TOKENS = 512;
const PIECE_STATE_BYTES = 1 << 26;

/** What a pass needs beside its place in the ring. */
export interface QueryRotationParts {
  kernels: RingKernels;
  plan: RingPlan;
  /** The rank's own, packed. */
  queries: QueryTensors;
  block: KvBlock;
  exit: BlockExit;
  workspace: Workspace;
  pacer: Pacer;
  /** Ends the whole pass. */
  fail: (reason: unknown) => void;
}

/** Something that has come from the previous rank. */
interface Arrival {
  bytes: Uint8Array<ArrayBuffer>;
  transferMs: number;
}

/** One rank's pass with queries going around. */
export interface QueryRotation {
  /** The rank's own queries; their state is complete when {@link turn} has ended. */
  shard: QueryShard;
  turn(): AsyncGenerator<RankStep>;
  /** Resolves when everything sent has arrived. */
  finish(): Promise<void>;
  /** Resolves when nothing uses the pass's memory any more, however it ended. */
  settled(): Promise<unknown>;
}

/** The most that any of several plans asks for under one name. */
function mostOf(requests: readonly WorkspaceRequest[]): WorkspaceRequest[] {
  const most = new Map<string, WorkspaceRequest>();
  for (const request of requests)
    if (request.byteLength > (most.get(request.key)?.byteLength ?? -1)) most.set(request.key, request);
  return [...most.values()];
}

/** Begins a pass: receives are posted and the own queries' way out begins, at once. @throws {GpuMemoryError} */
export async function beginQueryRotation(
  place: RingPlace,
  parts: QueryRotationParts,
  signal: AbortSignal,
): Promise<QueryRotation> {
  const { rank, worldSize, epoch, op, layer } = place;
  const { kernels, plan, queries, block, exit, workspace, pacer, fail } = parts;
  const { device, resolved } = kernels;
  const { heads, headDim, valueDim } = resolved;
  const next = sendRank(rank, worldSize);
  const ownerAt = (step: number) => kvRankAt(rank, step, worldSize);
  const counts = place.queries.map(tokenCount);
  const queryBytes = (owner: number) => counts[owner]! * heads * headDim * 4;
  const stateBytes = (owner: number) => counts[owner]! * heads * (valueDim + 2) * 4;
  const guard = <T>(work: Promise<T>): Promise<T> => {
    work.catch(fail);
    return work;
  };

  // Memory: the own shard, and two slots for visitors.
  const mostTokens = Math.max(1, Math.min(PIECE_TOKENS, Math.floor(PIECE_STATE_BYTES / (heads * (valueDim + 2) * 4))));
  const planOf = (tensors: QueryTensors, owner: number, name: string) =>
    QueryShard.plan(kernels, tensors, place.queries[owner]!, rank, { name, mostTokens, hasIncoming: true });
  const slotName = (step: number) => `visit ${step % SLOTS}`;
  const queryKey = (step: number) => `${slotName(step)} query`;
  const visitorOf = (step: number, view: BufferView) => {
    const owner = ownerAt(step);
    const tensors = { query: view, output: view, batch: 1, seqLen: counts[owner]!, firstPosition: 0, isPacked: true };
    return planOf(tensors, owner, slotName(step));
  };
  const visits = Array.from({ length: worldSize - 1 }, (_, i) => i + 1).filter((step) =>
    plan.sees(ownerAt(step), rank),
  );
  const own = planOf(queries, rank, "own");
  await workspace.prepare(
    mostOf([
      ...own.requests,
      ...visits.flatMap((step) => visitorOf(step, viewOf(queries.query)).requests),
      ...visits.map((step) => ({
        key: queryKey(step),
        label: `${resolved.label} visiting queries`,
        byteLength: queryBytes(ownerAt(step)),
        owner: rank,
      })),
    ]),
  );
  const shard = own.build(workspace);
  signal.throwIfAborted();

  const keyOf = (kind: ParcelKind, owner: number): ParcelKey => ({ epoch, op, layer, kind, rank: owner });
  const sends: Promise<void>[] = [];
  const send = (kind: ParcelKind, owner: number, bytes: Outgoing["parts"], byteLength: number): Promise<void> => {
    const sent = guard(place.next!.send(keyOf(kind, owner), bytes, byteLength, signal));
    sends.push(sent);
    return sent;
  };
  const receive = async (kind: ParcelKind, owner: number, byteLength: number): Promise<Arrival> => {
    const parcel = await place.previous!.receive(keyOf(kind, owner), byteLength, signal);
    expectLength(parcel, byteLength, place.previous!.peerId);
    return { bytes: parcel.bytes, transferMs: travelMs(parcel) };
  };

  if (plan.hasQuery(rank, next)) {
    const out = readViews(exit.readback, [{ ...viewOf(queries.query), byteLength: queryBytes(rank) }], signal);
    send("query", rank, out.parts, queryBytes(rank));
    await untilAborted(out.started, signal);
  }

  /** By step: the visitor's state has left the slot. */
  const relays: Promise<unknown>[] = [];
  const queryArrivals: Promise<Arrival | undefined>[] = [];
  const stateArrivals: Promise<Arrival | undefined>[] = [];
  const forwarded: Promise<unknown>[] = [];
  /** Resolves when the loop has come to this step. */
  const reached = Array.from({ length: worldSize + 1 }, () => {
    let resolve = () => {};
    return { promise: new Promise<void>((done) => (resolve = done)), resolve: () => resolve() };
  });

  /** No more than what is met now and two steps ahead is in host memory. */
  const mayAwait = (step: number): Promise<unknown> => {
    const earlier = step - SLOTS;
    if (earlier < 1) return Promise.resolve();
    return untilAborted(Promise.all([reached[earlier]!.promise, forwarded[earlier - 1]]), signal);
  };
  async function queriesOf(step: number): Promise<Arrival | undefined> {
    const owner = ownerAt(step);
    if (!plan.hasQuery(owner, rank)) return undefined;
    await mayAwait(step);
    const arrival = await receive("query", owner, queryBytes(owner));
    // They go ahead at once, whatever there is to compute here.
    if (owner !== next && plan.hasQuery(owner, next))
      forwarded[step] = quiet(send("query", owner, [arrival.bytes], queryBytes(owner)));
    return arrival;
  }
  /** States of a visitor that earlier ranks have made; in the last step those of the own queries, come home. */
  async function statesOf(step: number): Promise<Arrival | undefined> {
    const owner = ownerAt(step);
    if (!plan.hasState(owner, rank)) return undefined;
    await mayAwait(step);
    return receive("state", owner, stateBytes(owner));
  }
  for (let step = 1; step < worldSize; step++) queryArrivals[step] = quiet(guard(queriesOf(step)));
  for (let step = 1; step <= worldSize; step++) stateArrivals[step] = quiet(guard(statesOf(step)));

  /** Writes states that have come to where they are merged from. */
  function writeStates(bytes: Uint8Array<ArrayBuffer>, target: QueryShard): void {
    let at = 0;
    for (const view of target.incoming) {
      write(device, view.buffer, view.byteOffset, bytes.subarray(at, at + view.byteLength));
      at += view.byteLength;
    }
  }

  /** Sends a visitor's states on, merged with those from before. What computes them here has been submitted. */
  async function relay(step: number, visitor: QueryShard | undefined): Promise<void> {
    const owner = ownerAt(step);
    if (!plan.hasState(owner, next)) return;
    const before = await stateArrivals[step]!;
    if (!visitor) {
      send("state", owner, [before!.bytes], stateBytes(owner));
      return;
    }
    if (before) {
      writeStates(before.bytes, visitor);
      const encoder = device.createCommandEncoder({ label: `${resolved.label} merge` });
      visitor.encodeMerge(encoder);
      device.queue.submit([encoder.finish()]);
    }
    const out = readViews(exit.readback, visitor.states, signal);
    send("state", owner, out.parts, stateBytes(owner));
    await untilAborted(out.submitted, signal);
  }

  /** Queries meet all that the own block shows them. */
  async function meetBlock(met: QueryShard, event: RankStep): Promise<void> {
    const pages = block.gpuPages;
    for (const page of pages)
      if (!met.cannotSee(page)) await meetPage({ bring: alreadyThere }, met, page, pacer, event);
    // Queries that have seen nothing must have a state that says so, where the plan says that there is one.
    if (met.hasUnmet && pages[0]) await meetPage({ bring: alreadyThere }, met, pages[0], pacer);
  }

  const open = (step: number, waitMs: number, arrival?: Arrival): RankStep => {
    const owner = ownerAt(step);
    return pacer.open<RankStep>({
      ...{ step, rank, kvRank: rank, queryRank: owner, rotation: "query" },
      ...{ isSkipped: !plan.sees(owner, rank), queryTokens: counts[owner]!, kvTokens: block.tokenCount },
      ...{ computeMs: 0, transferMs: arrival?.transferMs ?? 0, waitMs, startMs: performance.now() },
      ...{ receivedBytes: arrival?.bytes.byteLength ?? 0, multiplyAdds: 0 },
    });
  };

  /** A visitor's step. */
  async function visit(step: number, waitMs: number, arrival: Arrival | undefined): Promise<RankStep> {
    const event = open(step, waitMs, arrival);
    let visitor: QueryShard | undefined;
    if (!event.isSkipped) {
      // The slot is free when the one before has left it, and what reads it is on the queue.
      await untilAborted(Promise.resolve(relays[step - SLOTS]), signal);
      pacer.submit();
      const view = workspace.view(queryKey(step), queryBytes(ownerAt(step)));
      write(device, view.buffer, 0, arrival!.bytes);
      visitor = visitorOf(step, view).build(workspace);
      await meetBlock(visitor, event);
      pacer.submit();
    }
    relays[step] = quiet(guard(relay(step, visitor)));
    return event;
  }

  async function* turn(): AsyncGenerator<RankStep> {
    const remote = { ranks: [rank] };
    reached[0]!.resolve();
    let event = open(0, 0);
    if (!event.isSkipped) await meetBlock(shard, event);
    for (let step = 1; step < worldSize; step++) {
      pacer.close();
      await pacer.keepUp();
      yield* pacer.finished() as Generator<RankStep>;
      const asked = askFrom(remote, worldSize, pacer);
      const arrival = await untilAborted(queryArrivals[step]!, signal);
      const waitMs = await asked();
      reached[step]!.resolve();
      event = await visit(step, waitMs, arrival);
    }
    // The last hop of the own states is on its way while there is nothing left to compute: it counts to the last step.
    reached[worldSize]!.resolve();
    const asked = askFrom(remote, worldSize, pacer);
    const home = await untilAborted(stateArrivals[worldSize]!, signal);
    event.waitMs += await asked();
    if (home) {
      event.receivedBytes += home.bytes.byteLength;
      event.transferMs += home.transferMs;
      writeStates(home.bytes, shard);
      shard.encodeMerge(pacer.encoder);
    }
    pacer.close();
  }

  return {
    shard,
    turn,
    async finish() {
      await Promise.all(relays);
      await Promise.all(sends);
    },
    settled: () => Promise.allSettled(relays),
  };
}
