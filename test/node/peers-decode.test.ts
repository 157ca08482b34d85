/** What a decode operation does with answers that are none: their sender is dropped, and nothing of them is merged. */
import { describe, expect, it } from "vitest";
import type { Link, ParcelKey } from "../../src/link/types.ts";
import type { RankRun } from "../../src/model/rank-types.ts";
import type { Epoch } from "../../src/peers/epoch.ts";
import type { PeerMessage } from "../../src/peers/messages.ts";
import { decodeExchange } from "../../src/peers/op-decode.ts";

const HEADS = 2;
const HEAD_DIM = 2;

/** A child that answers every ask with these numbers, and notes why its link was closed. */
function childWith(numbers: number[]): { link: Link; closed: string[] } {
  const closed: string[] = [];
  const link = {
    peerId: "mallory",
    send: async () => {},
    receive: async (key: ParcelKey) => ({
      key,
      bytes: new Uint8Array(Float32Array.from(numbers).buffer),
      startMs: 0,
      endMs: 0,
    }),
    close: (reason: string) => closed.push(reason),
  } as unknown as Link;
  return { link, closed };
}

function ask(link: Link) {
  const seat = (id: string, seat: number) => ({ id, seat });
  const epoch = { number: 5, rank: 0, ranks: [seat("leader", 0), seat("mallory", 1)] } as unknown as Epoch;
  const rank = { heads: HEADS, kvHeads: HEADS, headDim: HEAD_DIM } as RankRun;
  const place = { epoch, rank, linkTo: () => link, signal: new AbortController().signal };
  const message = { type: "decode", epoch: 5, op: 1, keeper: 0 } as unknown as PeerMessage<"decode">;
  const row = () => new Float32Array(HEADS * HEAD_DIM);
  return decodeExchange(place, message).ask(0, row(), row(), row());
}

describe("answers of a decode operation", () => {
  it("takes finite numbers, and an lse of -Infinity where nothing was seen", async () => {
    const { link, closed } = childWith([1, 2, 0, 0, 0.5, Number.NEGATIVE_INFINITY]);
    const answer = await ask(link);
    expect([...answer!.output]).toEqual([1, 2, 0, 0]);
    expect([...answer!.lse]).toEqual([0.5, Number.NEGATIVE_INFINITY]);
    expect(closed).toEqual([]);
  });

  it.each([
    ["NaN in the output", [1, Number.NaN, 0, 0, 0, 0], /an answer of finite numbers from mallory, got NaN/],
    ["infinity in the output", [Number.POSITIVE_INFINITY, 0, 0, 0, 0, 0], /finite numbers from mallory, got Infinity/],
    ["NaN as lse", [0, 0, 0, 0, Number.NaN, 0], /an lse that is finite or -Infinity from mallory, got NaN/],
    ["infinity as lse", [0, 0, 0, 0, 0, Number.POSITIVE_INFINITY], /lse that is finite.*got Infinity/],
    ["too few numbers", [0, 0, 0], /an answer of 24 bytes from mallory, got 12 bytes/],
  ])("drops who sends %s", async (_, numbers, message) => {
    const { link, closed } = childWith(numbers);
    await expect(ask(link)).rejects.toMatchObject({
      name: "LinkError",
      why: "violation",
      message: expect.stringMatching(message),
    });
    expect(closed).toEqual([expect.stringMatching(/^broke the protocol: /)]);
  });
});
