/** A prefill operation on one rank: its share of the tokens through all layers, in lockstep with the others. */
import { LinkError, PeerError } from "../errors.ts";
import type { Link } from "../link/types.ts";
import type { RankRun } from "../model/rank-types.ts";
import type { RankStep } from "../ring/rank-types.ts";
import { tokenCount } from "../ring/shard.ts";
import type { Epoch } from "./epoch.ts";
import type { OpFigures, PeerMessage, RunInfo } from "./messages.ts";

/** Where an operation takes place. */
export interface OpPlace {
  epoch: Epoch;
  rank: RankRun;
  /** The link to a rank of the epoch. @throws {PeerError} where there is none. */
  linkTo(rank: number): Link;
  signal: AbortSignal;
}

/** @throws {PeerError} before the roll call is over. */
export function heldOf(epoch: Epoch): NonNullable<Epoch["held"]> {
  if (epoch.held) return epoch.held;
  throw new PeerError("operation: expected it after the roll call's end, got it before");
}

/** Figures that every operation has. */
export function plainFigures(rank: RankRun, timeMs: number): OpFigures {
  return {
    computeMs: 0,
    transferMs: 0,
    waitMs: 0,
    multiplyAdds: 0,
    sentBytes: 0,
    receivedBytes: 0,
    gpuBytes: rank.memory.bytes,
    peakGpuBytes: rank.memory.peakBytes,
    heldTokens: tokenCount(rank.held),
    timeMs,
  };
}

/**
 * Runs the rank's part; resolves when it is done here.
 * @throws {LinkError} when a neighbour goes. @throws signal.reason
 */
export async function forwardOp(
  place: OpPlace,
  message: PeerMessage<"forward">,
  run: { info: RunInfo; ids: readonly number[] },
  now: () => number,
  onSteps: (layer: number, layerCount: number, steps: readonly RankStep[]) => void,
): Promise<OpFigures> {
  const { epoch, rank, linkTo, signal } = place;
  const worldSize = epoch.ranks.length;
  if (message.tokens.length !== worldSize)
    throw new PeerError(`forward: expected tokens for ${worldSize} ranks, got ${message.tokens.length}`);
  const next = worldSize > 1 ? linkTo((epoch.rank + 1) % worldSize) : undefined;
  const previous = worldSize > 1 ? linkTo((epoch.rank + worldSize - 1) % worldSize) : undefined;
  const startMs = now();
  const sentBefore = next?.counters.sentBytes ?? 0;
  const sums = { computeMs: 0, transferMs: 0, waitMs: 0, multiplyAdds: 0, receivedBytes: 0 };
  const pass = rank.forward(
    run.ids,
    {
      rank: epoch.rank,
      worldSize,
      ...(next && { next }),
      ...(previous && { previous }),
      epoch: epoch.number,
      op: message.op,
      tokens: message.tokens,
      held: heldOf(epoch),
      rotation: message.rotation,
      wireDtype: run.info.wireDtype,
      ropeLength: message.ropeLength,
    },
    signal,
    (layer, steps) => {
      for (const step of steps) {
        sums.computeMs += step.computeMs;
        sums.transferMs += step.transferMs;
        sums.waitMs += step.waitMs;
        sums.multiplyAdds += step.multiplyAdds;
        sums.receivedBytes += step.receivedBytes;
      }
      onSteps(layer, rank.layerCount, steps);
    },
  );
  try {
    await pass;
  } catch (error) {
    // Whoever passes a block on has checked it, so it is the neighbour's doing: the ring goes on without it, instead of
    // meeting the same block again in every epoch to come.
    if (error instanceof LinkError && error.why === "violation" && previous && !previous.isClosed)
      previous.close(`broke the protocol: ${error.message}`);
    throw error;
  }
  const bytesPerSecond = previous?.bytesPerSecond;
  return {
    ...plainFigures(rank, now() - startMs),
    ...sums,
    sentBytes: (next?.counters.sentBytes ?? 0) - sentBefore,
    ...(bytesPerSecond !== undefined && { bytesPerSecond }),
  };
}
