/** What peers send is checked to the last field: mangled messages are refused with a sentence, and nothing breaks. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { ControlMessage } from "../../src/link/types.ts";
import { type PeerMessage, parseMessage, wireMessage } from "../../src/peers/messages.ts";

const range = { start: 3, stride: 2, count: 4 };
const figures = {
  computeMs: 1,
  transferMs: 1,
  waitMs: 0,
  multiplyAdds: 5,
  sentBytes: 1,
  receivedBytes: 2,
  gpuBytes: 3,
  peakGpuBytes: 4,
  heldTokens: 5,
  timeMs: 6,
};

const samples: PeerMessage[] = [
  { type: "hello", protocol: 1, name: "a", adapterName: "b", memoryBytes: 1, incarnation: 1 },
  { type: "ask", incarnation: 2 },
  { type: "refuse", reason: "no" },
  { type: "stale", epoch: 77 },
  { type: "text", run: "r", start: 0, ids: [1, 2, 3] },
  { type: "begin", epoch: 5, held: [[range], []] },
  { type: "forward", epoch: 5, op: 1, tokens: [[range], []], rotation: "query", ropeLength: 9 },
  { type: "decode", epoch: 5, op: 1, position: 4, id: 3, keeper: 1 },
  { type: "done", epoch: 5, op: 1, figures },
  { type: "failed", epoch: 5, op: 1, why: "link", message: "gone" },
  { type: "end", run: "r", start: 0, ids: [1], stopReason: "stopId", message: "over" },
  { type: "lost", peerId: "p" },
  { type: "goodbye", reason: "left" },
];

/** As it comes out of a link. */
const sent = (message: PeerMessage): ControlMessage => JSON.parse(JSON.stringify(wireMessage(message)));

/** Every place in a message where something can be put. */
function placesOf(value: unknown, path: (string | number)[] = []): (string | number)[][] {
  if (typeof value !== "object" || value === null) return [path];
  return [path, ...Object.entries(value).flatMap(([key, inner]) => placesOf(inner, [...path, key]))];
}

function put(message: ControlMessage, path: readonly (string | number)[], value: unknown): ControlMessage {
  if (path.length === 0) return value as ControlMessage;
  const copy = structuredClone(message);
  let at = copy as Record<string | number, unknown>;
  for (const key of path.slice(0, -1)) at = at[key] as Record<string | number, unknown>;
  at[path.at(-1)!] = value;
  return copy;
}

describe("messages between peers", () => {
  it("come out as they went in", () => {
    for (const message of samples) expect(parseMessage(sent(message)).message).toEqual(message);
  });

  it("10,000 mangled ones are read or refused, never thrown at anyone, and bring nothing along", () => {
    const strange = fc.oneof(
      fc.constantFrom<unknown>(-1, 1.5, 2 ** 53, "", "x".repeat(3000), null, true, [], {}, [[]], [1, 2], [-1, 0, 0]),
      fc.jsonValue(),
    );
    let refused = 0;
    fc.assert(
      fc.property(fc.constantFrom(...samples), fc.nat(), strange, (sample, at, value) => {
        const raw = sent(sample);
        const places = placesOf(raw).slice(1);
        const mangled = { ...put(raw, places[at % places.length]!, value), extra: "x" };
        const parsed = parseMessage(mangled as ControlMessage);
        if (parsed.problem !== undefined) {
          refused++;
          expect(parsed.problem.length).toBeLessThan(400);
        } else expect(parsed.message).not.toHaveProperty("extra");
      }),
      { numRuns: 10_000 },
    );
    expect(refused).toBeGreaterThan(5000);
  });

  it("says what was expected and what came", () => {
    expect(parseMessage({ ...sent(samples[7]!), keeper: 64 }).problem).toBe(
      "parseMessage: decode: expected keeper to be an integer from 0 to 63, got 64",
    );
    expect(parseMessage({ type: "nonsense" }).problem).toMatch(/known type of message/);
    const far = { ...sent(samples[5]!), held: [[0, 65536, 16777215]] };
    expect(parseMessage(far).problem).toMatch(/expected the end of/);
  });
});
