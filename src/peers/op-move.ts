/**
 * A move: committed K/V go from one rank to another that has come, so that everyone holds its share. Between two operations of the
 * run, in pieces: nobody waits for more than one of them.
 */
import { PeerError } from "../errors.ts";
import { tokenCount } from "../ring/shard.ts";
import type { TokenRange } from "../ring/types.ts";
import { differenceOf, intersectionOf, unionOf } from "./holdings.ts";
import type { OpFigures, PeerMessage } from "./messages.ts";
import { heldOf, type OpPlace, plainFigures } from "./op-forward.ts";
import { cutMove, planMoves, type TokenMove } from "./plan.ts";

/** Bytes of one move: a fraction of a second over most links. */
const MOVE_BYTES = 4 * 2 ** 20;
/** So few tokens per rank are not worth moving. */
const LEAST_TOKENS = 16;

type MoveMessage = PeerMessage<"move">;

/** What everyone holds once the move is done. */
export const afterMove = (
  held: readonly (readonly TokenRange[])[],
  { from, to, tokens }: MoveMessage,
): TokenRange[][] =>
  held.map((ranges, rank) =>
    rank === from ? differenceOf(ranges, tokens) : rank === to ? unionOf(ranges, tokens) : [...ranges],
  );

/**
 * Moves to those who hold nothing yet, each cut into pieces.
 * @param room Tokens that each rank can still take.
 * @param weights What shares are in proportion to.
 */
export function planJoinMoves(
  held: readonly (readonly TokenRange[])[],
  room: readonly number[],
  weights: readonly number[],
  kvBytesPerToken: number,
): TokenMove[] {
  const now = held.map((ranges) => [...ranges]);
  if (held.reduce((sum, ranges) => sum + tokenCount(ranges), 0) < LEAST_TOKENS * held.length) return [];
  const piece = Math.max(1, Math.floor(MOVE_BYTES / kvBytesPerToken));
  const moves: TokenMove[] = [];
  for (let joiner = 0; joiner < held.length; joiner++) {
    if (now[joiner]!.length > 0) continue;
    for (const move of planMoves({
      ...{ held: now, joiner, weights },
      ...{ room: room[joiner]!, mostTokens: Number.MAX_SAFE_INTEGER },
    })) {
      now[move.from] = differenceOf(now[move.from]!, move.ranges);
      now[joiner] = unionOf(now[joiner]!, move.ranges);
      moves.push(...cutMove(move, piece));
    }
  }
  return moves;
}

/** True where the plan says the same of these tokens as the message: held by the one, and by the other not. */
function fits(held: readonly (readonly TokenRange[])[], { from, to, tokens }: MoveMessage): boolean {
  if (from === to || from >= held.length || to >= held.length) return false;
  return (
    tokenCount(intersectionOf(held[from]!, tokens)) === tokenCount(tokens) &&
    tokenCount(intersectionOf(held[to]!, tokens)) === 0
  );
}

/**
 * This rank's part: gives, takes, or has nothing to do with it.
 * @throws {LinkError} when the other end goes. @throws {PeerError} where the move does not fit what is held, or what comes does
 * not fit the move. @throws signal.reason
 */
export async function moveOp(place: OpPlace, message: MoveMessage, now: () => number): Promise<OpFigures> {
  const { epoch, rank, linkTo, signal } = place;
  const { from, to, tokens, op } = message;
  if (!fits(heldOf(epoch), message))
    throw new PeerError(`move: expected tokens that rank ${from} holds and rank ${to} does not, got others`);
  const startMs = now();
  const key = { epoch: epoch.number, op, layer: 0, kind: "page", rank: from } as const;
  if (epoch.rank === from) {
    const { layers } = await rank.exportTokens(tokens, signal);
    const byteLength = layers.reduce((sum, bytes) => sum + bytes.byteLength, 0);
    await linkTo(to).send(key, layers, byteLength, signal);
    await rank.drop(tokens);
    return { ...plainFigures(rank, now() - startMs), sentBytes: byteLength };
  }
  if (epoch.rank !== to) return plainFigures(rank, 0);
  const byteLength = tokenCount(tokens) * rank.kvBytesPerToken;
  const { bytes } = await linkTo(from).receive(key, byteLength, signal);
  if (bytes.byteLength !== byteLength)
    throw new PeerError(`move: expected ${byteLength} bytes of rank ${from}, got ${bytes.byteLength}`);
  const layerBytes = byteLength / rank.layerCount;
  const layers = Array.from({ length: rank.layerCount }, (_, layer) =>
    bytes.slice(layer * layerBytes, (layer + 1) * layerBytes),
  );
  await rank.importTokens({ ranges: tokens, layers }, signal);
  return { ...plainFigures(rank, now() - startMs), receivedBytes: byteLength };
}
