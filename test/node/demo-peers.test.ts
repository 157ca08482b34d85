/** What the demo page makes of a ring's events: the story it tells, who is drawn where, one clock for all, who can open its link. */
import fc from "fast-check";
import { describe, expect, it, test } from "vitest";
import { cleanName, defaultMemoryMiB, defaultName, MAX_NAME_LENGTH } from "../../demo/peers/identity.ts";
import { describeReach } from "../../demo/peers/reachability.ts";
import { GHOST_MS, RingStory } from "../../demo/peers/ring-story.ts";
import { memoryOf, seatsOf } from "../../demo/peers/seats.ts";
import { TurnAssembler } from "../../demo/peers/turns.ts";
import type { PeerEvent, PeerStatus, RankStep } from "../../src/index.ts";

const peer = (id: string, rank: number | undefined, more: Partial<PeerStatus> = {}): PeerStatus => ({
  id,
  name: `${id}’s laptop`,
  isSelf: id === "Me",
  isLeader: id === "Me",
  state: rank === undefined ? "loading" : "working",
  rank,
  adapterName: "a GPU",
  memoryBytes: 2 ** 30,
  usedBytes: 0,
  heldTokens: 0,
  ...more,
});

const epoch = (number: number, ...ranks: string[]): PeerEvent => ({
  type: "epoch",
  epoch: number,
  leaderId: ranks[0]!,
  ranks,
  message: `Ring ${number}.`,
});

/** Three peers at work, of whom Anna goes. */
function storyOfALoss(): RingStory {
  const story = new RingStory();
  const peers = [peer("Me", 0), peer("Anna", 1), peer("Ben", 2)];
  for (const event of [
    { type: "peers", peers },
    epoch(64, "Me", "Anna", "Ben"),
    { type: "suspected", peerId: "Anna", name: "Anna’s laptop" },
    { type: "left", peerId: "Anna", name: "Anna’s laptop", reason: "silent for 5 s.", lostTokens: 1024 },
    { type: "peers", peers: [peer("Me", 0), peer("Ben", 1)] },
    epoch(128, "Me", "Ben"),
    { type: "recovering", doneTokens: 0, totalTokens: 1024, message: "Computing lost tokens again." },
    { type: "recovering", doneTokens: 512, totalTokens: 1024, message: "Computing lost tokens again." },
    { type: "recovered", tokens: 1024, milliseconds: 1240, message: "" },
  ] satisfies PeerEvent[])
    story.tell(event, 1000);
  return story;
}

describe("the story of a ring", () => {
  it("tells a loss and its recovery in sentences, the progress in one line", () => {
    expect(storyOfALoss().lines.map(({ text, tone }) => `${tone}: ${text.replaceAll("\u00a0", " ")}`)).toEqual([
      "plain: Ring 64.",
      "bad: Anna’s laptop has been silent for a second.",
      "bad: Anna’s laptop has left (silent for 5 s): 1,024 tokens are computed again by the two that are left.",
      "bad: Computing lost tokens again (512 of 1,024 done).",
      "good: Recovered in 1.2 s; the answer goes on.",
    ]);
  });

  it("shows one who has gone for a while, with the reason, then forgets it", () => {
    const story = storyOfALoss();
    const ghost = story.peers.at(-1)!;
    expect(ghost).toMatchObject({ id: "Anna", state: "gone", reason: "silent for 5 s.", lastRank: 1, goneMs: 1000 });
    expect(story.presentCount).toBe(2);
    expect(story.sweep(1000 + GHOST_MS - 1)).toBe(false);
    expect(story.sweep(1000 + GHOST_MS)).toBe(true);
    expect(story.peers.map(({ id }) => id)).toEqual(["Me", "Ben"]);
  });

  it("counts who is ready, and lists those who ask until they are answered", () => {
    const story = new RingStory();
    story.tell({ type: "peers", peers: [peer("Me", 0), peer("Anna", undefined, { state: "asking" })] }, 0);
    const asks: PeerEvent = { type: "asks", peerId: "Anna", name: "Anna", adapterName: "a GPU" };
    story.tell(asks, 0);
    story.tell(asks, 1);
    expect(story.asking).toHaveLength(1);
    expect(story.readyCount).toBe(1);
    story.tell({ type: "peers", peers: [peer("Me", 0), peer("Anna", undefined, { state: "ready" })] }, 2);
    expect(story.asking).toEqual([]);
    expect(story.readyCount).toBe(2);
  });

  test("keeps a bounded log, whatever comes", () => {
    const story = new RingStory();
    for (let i = 0; i < 1000; i++) story.say(i, `Line ${i}`);
    expect(story.lines.length).toBeLessThanOrEqual(200);
    expect(story.lines.at(-1)!.text).toBe("Line 999");
  });
});

describe("seats", () => {
  it("are the ranks in order, one who has gone where it sat, one who loads at the end", () => {
    const story = storyOfALoss();
    story.tell({ type: "peers", peers: [peer("Me", 0), peer("Ben", 1), peer("Cleo", undefined)] }, 1500);
    expect(seatsOf(story).map(({ id, rank, state }) => [id, rank, state])).toEqual([
      ["Me", 0, "ok"],
      ["Anna", undefined, "gone"],
      ["Ben", 1, "ok"],
      ["Cleo", undefined, "waiting"],
    ]);
  });

  it("give the bytes of each rank, and the most it had", () => {
    const story = storyOfALoss();
    const peaks = new Map<string, number>();
    const held = (bytes: number): PeerEvent => ({
      type: "peers",
      peers: [peer("Me", 0, { usedBytes: bytes }), peer("Ben", 1)],
    });
    story.tell(held(300), 1);
    memoryOf(story, peaks);
    story.tell(held(100), 2);
    expect(memoryOf(story, peaks)).toEqual({
      bytes: 100,
      peakBytes: 300,
      ranks: [
        { bytes: 100, peakBytes: 300 },
        { bytes: 0, peakBytes: 0 },
      ],
    });
  });
});

describe("turns", () => {
  const step = (rank: number, index: number, startMs: number): RankStep => ({
    step: index,
    rank,
    kvRank: 0,
    queryRank: rank,
    isSkipped: false,
    queryTokens: 1,
    kvTokens: 1,
    computeMs: 5,
    transferMs: 0,
    waitMs: 0,
    startMs,
    rotation: "keyValue",
    receivedBytes: 0,
    multiplyAdds: 0,
  });
  const tells = (rank: number, layer: number, startMs: number) =>
    ({
      type: "steps",
      rank,
      layer,
      layerCount: 2,
      steps: [step(rank, 0, startMs), step(rank, 1, startMs + 5)],
    }) as const;

  it("are whole when every rank has told of a layer, whatever clocks the ranks have", () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: -1e9, max: 1e9, noNaN: true }), { minLength: 1, maxLength: 6 }),
        fc.double({ min: 0, max: 50, noNaN: true }),
        (clocks, delayMs) => {
          const assembler = new TurnAssembler();
          assembler.reset(clocks.length);
          for (let layer = 0; layer < 4; layer++) {
            const turns = clocks.flatMap((clock, rank) =>
              assembler.add(tells(rank, layer % 2, clock + layer * 20), layer * 20 + 10 + delayMs),
            );
            expect(turns).toHaveLength(1);
            expect(turns[0]!.steps.map(({ rank }) => rank)).toEqual(clocks.flatMap((_, rank) => [rank, rank]));
            // On one clock: what happened at the same time lies at the same place.
            for (const { startMs, step: index } of turns[0]!.steps)
              expect(Math.abs(startMs - (layer * 20 + index * 5 + delayMs))).toBeLessThan(0.01);
          }
        },
      ),
      { numRuns: 50 },
    );
  });

  it("are handed on without a rank that never tells", () => {
    const assembler = new TurnAssembler();
    assembler.reset(3);
    expect(assembler.add(tells(0, 0, 0), 10)).toEqual([]);
    expect(assembler.add(tells(1, 0, 0), 10)).toEqual([]);
    const [turn] = assembler.add(tells(0, 1, 10), 20);
    expect(turn!.steps.map(({ rank }) => rank)).toEqual([0, 0, 1, 1]);
  });
});

describe("the link", () => {
  it.each([
    ["localhost", true, "this-machine"],
    ["127.0.0.1", true, "this-machine"],
    ["[::1]", true, "this-machine"],
    ["192.168.0.7", false, "insecure"],
    ["192.168.0.7", true, "network"],
    ["annas-laptop.local", true, "network"],
    ["annas-laptop", true, "network"],
    ["ring.example.org", false, "insecure"],
    ["ring.example.org", true, "internet"],
  ])("of a page from %s (secure: %s) reaches: %s", (hostname, isSecure, kind) => {
    expect(describeReach({ protocol: "https:", hostname, isSecure }).kind).toBe(kind);
  });
});

describe("a name", () => {
  it("is one line of bounded length, whatever was typed, and never empty", () => {
    const unit = fc.constantFrom("a", "é", "’", " ", "\n", "\t", "\0", "\u202e", "\u200b", "\ud83d\ude00", "\ud83d");
    fc.assert(
      fc.property(fc.string({ unit, maxLength: 60 }), (text) => {
        const name = cleanName(text, "Computer");
        expect(name.length).toBeGreaterThan(0);
        expect([...name].length).toBeLessThanOrEqual(MAX_NAME_LENGTH);
        expect(name).not.toMatch(/[\p{Cc}\p{Cs}\u202e]/u);
        expect(cleanName(name, "Computer")).toBe(name);
      }),
    );
  });

  it.each([
    [
      "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
      "Linux PC, Chrome",
    ],
    [
      "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/156.0.0.0 Safari/537.36 Edg/156.0",
      "Windows PC, Edge",
    ],
    [
      "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/156.0.0.0 Mobile Safari/537.36",
      "Android phone, Chrome",
    ],
    [
      "Mozilla/5.0 (iPhone; CPU iPhone OS 26_0 like Mac OS X) AppleWebKit/605.1.15 Version/26.0 Safari/604.1",
      "iPhone, Safari",
    ],
    [
      "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/26.0 Safari/605.1.15",
      "Mac, Safari",
    ],
    ["something else", "Computer"],
  ])("of %s is %s where nobody gave one", (userAgent, name) => {
    expect(defaultName({ userAgent })).toBe(name);
  });

  it("comes with an offer of a quarter of the memory that the browser tells of", () => {
    expect(
      [undefined, 0.25, 1, 4, 8, 32].map((deviceMemory) => defaultMemoryMiB({ userAgent: "", deviceMemory })),
    ).toEqual([1024, 256, 256, 1024, 2048, 2048]);
  });
});
