/** Prefill as one rank of a ring of peers: its tokens through all layers, in lockstep with the others. */
import { OptionError } from "../errors.ts";
import { untilAborted } from "../ring/abort.ts";
import { formatRanges } from "../ring/positions.ts";
import type { RankAttention, RankStep } from "../ring/rank-types.ts";
import { positionsOf, tokenCount } from "../ring/shard.ts";
import { describeValue, expectInteger } from "../shape.ts";
import type { Activations, Decoder } from "./decoder.ts";
import type { RankCache } from "./rank-cache.ts";
import type { ForwardPlan } from "./rank-types.ts";
import { areSameTokens, mergeRanges } from "./token-ranges.ts";

/** What an operation of a rank works with. */
export interface RankParts {
  device: GPUDevice;
  decoder: Decoder;
  /** Of each layer; layers with the same window share one. */
  attention: readonly RankAttention[];
  cache: RankCache;
  vocabSize: number;
  heads: number;
  kvHeads: number;
  headDim: number;
}

/** A plan that fits, with everybody's tokens in ascending order. */
export interface CheckedPlan {
  plan: ForwardPlan;
  /** Per rank. */
  queries: ForwardPlan["tokens"];
  /** Per rank, the operation's own tokens included. */
  held: ForwardPlan["held"];
}

/**
 * Checks a plan before anything is done. What depends on the plan alone is refused by all ranks alike.
 * @throws {OptionError}
 */
export function checkPlan(plan: ForwardPlan, own: ForwardPlan["held"][number], chunkSize: number): CheckedPlan {
  const where = "forward";
  expectInteger(where, "worldSize", plan.worldSize);
  expectInteger(where, "rank", plan.rank, 0, plan.worldSize - 1);
  for (const name of ["tokens", "held"] as const)
    if (plan[name].length !== plan.worldSize)
      throw new OptionError(
        `${where}: expected ${name} of ${plan.worldSize} ranks (worldSize), got ${plan[name].length}`,
      );
  const queries = plan.tokens.map((ranges) => mergeRanges(where, ranges));
  const most = Math.max(...queries.map(tokenCount));
  if (most > chunkSize)
    throw new OptionError(
      `${where}: expected at most ${chunkSize} tokens per rank and operation (chunkSize), got ${most}`,
    );
  const kept = mergeRanges(where, plan.held[plan.rank]!);
  if (!areSameTokens(where, kept, own))
    throw new OptionError(
      `${where}: expected a plan that knows what rank ${plan.rank} holds (${formatRanges(own)}), got ${formatRanges(kept)}`,
    );
  const held = plan.held.map((ranges, rank) => mergeRanges(where, ranges, queries[rank]!));
  // A position that two ranks hold would count twice.
  mergeRanges(where, ...held);
  return { plan, queries, held };
}

/**
 * Runs a checked plan: resolves when the GPU is done. Attention of the last layer is left out on all ranks, because nothing
 * comes after it that prefill needs.
 * @throws signal.reason
 * @throws {LinkError} when a neighbour goes.
 */
export async function forwardRank(
  parts: RankParts,
  activations: Activations,
  ids: ArrayLike<number>,
  { plan, queries, held }: CheckedPlan,
  signal: AbortSignal,
  onSteps?: (layer: number, steps: readonly RankStep[]) => void,
): Promise<void> {
  const { device, decoder, cache } = parts;
  const ranges = queries[plan.rank]!;
  const count = tokenCount(ranges);
  const positions = [...positionsOf(ranges)];
  const rows = positions.map((position) => tokenAt(ids, position, parts.vocabSize));
  const { rank, worldSize, next, previous, epoch, op, rotation, wireDtype } = plan;
  const place = { rank, worldSize, next, previous, epoch, op, rotation, wireDtype, queries, held };
  const { query, output } = decoder.attentionRows(activations, 0);
  const { key, value } = activations;
  const lastLayer = decoder.layerCount - 1;
  const begin = (label: string) => device.createCommandEncoder({ label });
  let encoder = begin(`op ${op}`);
  if (count > 0) {
    decoder.writeIds(activations, rows);
    decoder.writePositionList(activations, positions, plan.ropeLength);
    const pass = encoder.beginComputePass();
    decoder.encodeEmbed(pass, activations, count);
    pass.end();
  }
  for (let layer = 0; layer <= lastLayer; layer++) {
    if (count > 0) {
      await cache.reserve(layer, ranges);
      signal.throwIfAborted();
      const pass = encoder.beginComputePass();
      decoder.encodeProjections(pass, activations, layer, count);
      cache.encodeAppend(pass, layer, { key, value, ranges });
      pass.end();
      device.queue.submit([encoder.finish()]);
    }
    if (layer === lastLayer) break;
    const steps: RankStep[] = [];
    const tensors = { query, output, block: cache.blocks[layer]! };
    for await (const step of parts.attention[layer]!.attend(tensors, { ...place, layer }, { signal })) steps.push(step);
    signal.throwIfAborted();
    onSteps?.(layer, steps);
    if (count === 0) continue;
    encoder = begin(`op ${op}, after attention ${layer}`);
    const pass = encoder.beginComputePass();
    decoder.encodeRest(pass, activations, layer, 0, count);
    pass.end();
  }
  await untilAborted(device.queue.onSubmittedWorkDone(), signal);
}

/** The id at a position. @throws {OptionError} where there is none. */
function tokenAt(ids: ArrayLike<number>, position: number, vocabSize: number): number {
  const id = ids[position];
  if (id !== undefined && Number.isInteger(id) && id >= 0 && id < vocabSize) return id;
  throw new OptionError(
    `forward: expected an id from 0 to ${vocabSize - 1} at position ${position}, got ${describeValue(id)} (${ids.length} ids)`,
  );
}
