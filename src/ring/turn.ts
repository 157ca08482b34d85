/**
 * The ring's loop (Liu, Zaharia, Abbeel, arXiv 2310.01889): in each step the queries of the ranks that compute here meet
 * the block that is here, while that block goes on its way and the next one comes. It knows blocks, pages and a transport,
 * and not whether the next rank is a buffer beside this one or a machine elsewhere.
 */
import { nextTask } from "./abort.ts";
import type { KvPage, RingBlock } from "./kv-page.ts";
import type { Pacer } from "./pacer.ts";
import type { QueryShard } from "./query-shard.ts";
import type { StepFields, TransportPass } from "./transport.ts";
import type { RingStep } from "./types.ts";

/** The loop, for the ranks that compute here (one shard each): yields one event per rank and step. */
export async function* turn(
  pass: TransportPass,
  worldSize: number,
  shards: readonly QueryShard[],
  blocks: readonly RingBlock[],
  pacer: Pacer,
): AsyncGenerator<RingStep> {
  let held = shards.map((shard) => blocks[shard.rank]!);
  /** Own ones first. Where somebody holds a token at all, and every block comes by, there is one. */
  let anyPage: KvPage | undefined;
  let waitMs = 0;
  for (let step = 0; step < worldSize; step++) {
    const isLast = step + 1 === worldSize;
    const arriving = Promise.all(isLast ? [] : shards.map((shard, i) => pass.sendRecv(shard.rank, held[i]!)));
    // Waited for below; a failure before that is not an unhandled one.
    arriving.catch(() => {});
    anyPage ??= held.flatMap((block) => block.pages).find((page) => page.count > 0);
    for (const [i, shard] of shards.entries()) {
      await meet(pass, shard, held[i]!, step, pacer, { ...pass.stepFields, ...held[i]!.arrival, waitMs });
      yield* pacer.finished();
    }
    if (isLast) break;
    const asked = askFrom(pass, worldSize, pacer);
    held = await arriving;
    waitMs = await asked();
  }
  if (anyPage) for (const shard of shards) if (shard.hasUnmet) await meetPage(pass, shard, anyPage, pacer);
}

/**
 * Begins to wait for something from elsewhere; what it gives back, called when that is here, tells how long the GPU had
 * nothing to do meanwhile (0 where everything is on this device).
 */
export function askFrom(pass: Pick<TransportPass, "ranks">, worldSize: number, pacer: Pacer): () => Promise<number> {
  if (pass.ranks.length === worldSize) return async () => 0;
  // What is encoded must not wait with us.
  pacer.submit();
  const askedMs = performance.now();
  return async () => {
    const hereMs = performance.now();
    // Lets the news that the GPU has finished come in.
    await nextTask();
    return pacer.isIdle ? Math.max(0, hereMs - Math.max(askedMs, pacer.idleSinceMs ?? askedMs)) : 0;
  };
}

/** One rank's step: its queries meet the block that is here, page by page. */
export async function meet(
  pass: Pick<TransportPass, "bring">,
  shard: QueryShard,
  block: RingBlock,
  step: number,
  pacer: Pacer,
  fields: StepFields = {},
): Promise<RingStep> {
  const pages = block.pages.filter((page) => page.count > 0 && !shard.cannotSee(page));
  const event = pacer.open({
    step,
    rank: shard.rank,
    kvRank: block.kvRank,
    isSkipped: pages.length === 0,
    queryTokens: shard.tokens,
    kvTokens: block.tokenCount,
    computeMs: 0,
    transferMs: 0,
    waitMs: 0,
    startMs: performance.now(),
    ...fields,
  });
  for (const page of pages) await meetPage(pass, shard, page, pacer, event);
  pacer.close();
  await pacer.keepUp();
  return event;
}

/** Without an event: for queries that have met nothing, so that their state says so. */
export async function meetPage(
  pass: Pick<TransportPass, "bring">,
  shard: QueryShard,
  page: KvPage,
  pacer: Pacer,
  event?: RingStep & StepFields,
): Promise<void> {
  const isHost = page.memory === "host";
  const arrival = await pass.bring(page);
  try {
    if (event && isHost) {
      // Lets the news that the GPU has finished come in, so that its idle time is not overlooked.
      await nextTask();
      const endMs = arrival.startMs + arrival.transferMs;
      if (event.transferMs === 0) event.startMs = arrival.startMs;
      event.transferMs += arrival.transferMs;
      if (pacer.isIdle) event.waitMs += Math.max(0, endMs - Math.max(arrival.startMs, pacer.idleSinceMs ?? 0));
    }
    arrival.prepare?.(pacer.encoder);
    for (const work of shard.encodeStep(() => pacer.encoder, arrival.page, event === undefined)) {
      if (event?.multiplyAdds !== undefined) event.multiplyAdds += work;
      pacer.add(work);
      await pacer.keepUp();
    }
  } finally {
    // A staging buffer is written over as soon as it is free: what reads it must be on the queue by then.
    arrival.release(isHost ? pacer.submit() : Promise.resolve());
  }
}
