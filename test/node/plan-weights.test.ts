/** The model goes from peer to peer over links in memory: whole, each piece once through a link, whoever lies or leaves. */
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import { ModelSourceError } from "../../src/errors.ts";
import { createLink } from "../../src/link/link.ts";
import type { ControlMessage, Link } from "../../src/link/types.ts";
import { createMemoryWires } from "../../src/link/wire-memory.ts";
import type { ModelFiles } from "../../src/model/types.ts";
import { createWeightsExchange, planWeightSources, type WeightsExchange } from "../../src/peers/weights-exchange.ts";
import { modelFingerprint } from "../../src/peers/weights-manifest.ts";
import { memoryFiles, packTensors } from "./model-files.ts";

const PIECE_BYTES = 100_000;

function modelBytes(seed = 1): Record<string, string | Uint8Array> {
  let state = seed;
  const random = Uint8Array.from({ length: 950_000 }, () => (state = (state * 48_271) % 2_147_483_647) & 255);
  return {
    "config.json": '{"model_type":"llama"}',
    "tokenizer.json": JSON.stringify({ text: "x".repeat(150_000) }),
    "model.safetensors": packTensors([{ name: "a", dtype: "F32", shape: [237_500], bytes: random }]),
  };
}

/** Peers with a link between each two. */
class Mesh {
  readonly exchanges = new Map<string, WeightsExchange>();
  readonly links = new Map<string, Map<string, Link>>();
  readonly broken: string[] = [];
  leaderId = "leader";

  constructor(ids: readonly string[], patienceMs = 5000) {
    for (const id of ids) {
      this.links.set(id, new Map());
      const exchange = createWeightsExchange({
        linkOf: (peerId) => this.links.get(id)!.get(peerId),
        leaderId: () => this.leaderId,
        onBroken: (peerId, reason) => {
          this.broken.push(`${id}: ${peerId} ${reason}`);
        },
        pieceBytes: PIECE_BYTES,
        patienceMs,
      });
      this.exchanges.set(id, exchange);
    }
    for (const [i, a] of ids.entries()) for (const b of ids.slice(i + 1)) this.connect(a, b);
  }

  private connect(a: string, b: string): void {
    const wires = createMemoryWires();
    for (const [self, other, wire] of [
      [a, b, wires[0]],
      [b, a, wires[1]],
    ] as const) {
      const link = createLink({ selfId: self, peerId: other, wires: [wire] });
      link.onControl = (message) => this.exchanges.get(self)!.handle(link, message);
      link.onClose = () => this.exchanges.get(self)!.closed(other);
      this.links.get(self)!.set(other, link);
    }
  }

  leave(id: string): void {
    for (const link of this.links.get(id)!.values()) link.close("left");
    this.exchanges.get(id)!.destroy();
  }

  received(by: string, from: string): number {
    return this.exchanges.get(by)!.pieces(from).received;
  }

  close(): void {
    for (const id of this.exchanges.keys()) this.leave(id);
  }
}

let mesh: Mesh | undefined;
afterEach(() => {
  mesh?.close();
  mesh = undefined;
});

/** Reads as the loader does: sizes first, small files whole, weights in reads that do not match pieces. */
async function readAll(files: ModelFiles, onRead: () => void = () => {}): Promise<Record<string, Uint8Array>> {
  const all: Record<string, Uint8Array> = {};
  for (const path of ["config.json", "tokenizer.json"]) all[path] = await files.read(path);
  const size = (await files.size("model.safetensors"))!;
  const weights = new Uint8Array(size);
  for (let start = 0; start < size; start += 130_001) {
    weights.set(await files.read("model.safetensors", { start, end: Math.min(size, start + 130_001) }), start);
    onRead();
  }
  all["model.safetensors"] = weights;
  return all;
}

const contents = modelBytes();
/** Of the three files: 1 + 2 + 10. */
const PIECES = 13;
const expectModel = (got: Record<string, Uint8Array>) => {
  for (const [path, content] of Object.entries(contents)) {
    const expected = typeof content === "string" ? new TextEncoder().encode(content) : content;
    expect(Buffer.compare(got[path]!, expected), path).toBe(0);
  }
};

describe("weights from peers", () => {
  it("come whole, each piece once, and what is absent is absent", async () => {
    mesh = new Mesh(["leader", "a"]);
    mesh.exchanges.get("leader")!.serve(memoryFiles(contents));
    const files = mesh.exchanges.get("a")!.files("the leader's model");
    expect(files.name).toBe("the leader's model");
    expect(await files.size("generation_config.json")).toBeUndefined();
    await expect(files.read("generation_config.json")).rejects.toThrow(ModelSourceError);
    await expect(files.read("config.json", { start: 0, end: 1000 })).rejects.toThrow(ModelSourceError);
    expectModel(await readAll(files));
    expect(mesh.received("a", "leader")).toBe(PIECES);
    // Again: from the pieces that are here.
    expectModel(await readAll(files));
    expect(mesh.received("a", "leader")).toBe(PIECES);
    expect(await modelFingerprint(files)).toBe(await modelFingerprint(memoryFiles(contents)));
    expect(mesh.broken).toEqual([]);
  });

  it("go along a chain where several join at once: through the leader's links once in all", async () => {
    const loading = ["a", "b", "c"];
    mesh = new Mesh(["leader", ...loading]);
    mesh.exchanges.get("leader")!.serve(memoryFiles(contents));
    mesh.exchanges.get("leader")!.direct({ loading, ready: ["leader"] });
    const answers = await Promise.all(loading.map((id) => readAll(mesh!.exchanges.get(id)!.files("model"))));
    answers.forEach(expectModel);
    // Who got pieces from whom, rank by rank.
    const table = loading.map((by) => ["leader", ...loading].map((from) => mesh!.received(by, from)));
    expect(table).toEqual([
      [PIECES, 0, 0, 0],
      [0, PIECES, 0, 0],
      [0, 0, PIECES, 0],
    ]);
    expect(mesh.broken).toEqual([]);
  });

  it("are spread over all who have them", async () => {
    mesh = new Mesh(["leader", "a", "b", "late"]);
    for (const id of ["leader", "a", "b"]) mesh.exchanges.get(id)!.serve(memoryFiles(contents));
    mesh.exchanges.get("leader")!.direct({ loading: ["late"], ready: ["leader", "a", "b"] });
    const files = mesh.exchanges.get("late")!.files("model");
    // A small file first: by then the leader's directions have come.
    await files.read("config.json");
    expectModel(await readAll(files));
    const shares = ["leader", "a", "b"].map((id) => mesh!.received("late", id));
    expect(shares.reduce((sum, share) => sum + share, 0)).toBe(PIECES);
    expect(Math.min(...shares)).toBeGreaterThanOrEqual(3);
  });

  it("a peer that sends wrong bytes is told on, and its piece comes from elsewhere", async () => {
    mesh = new Mesh(["leader", "liar", "a"]);
    mesh.exchanges.get("leader")!.serve(memoryFiles(contents));
    mesh.exchanges.get("liar")!.serve(memoryFiles(modelBytes(7)));
    mesh.exchanges.get("leader")!.direct({ loading: ["a"], ready: ["liar"] });
    const files = mesh.exchanges.get("a")!.files("model");
    await files.read("config.json");
    expectModel(await readAll(files));
    // config.json and tokenizer.json are the same in both models; of the weights not one piece was taken.
    expect(mesh.received("a", "liar")).toBeLessThanOrEqual(3);
    expect(mesh.received("a", "leader")).toBeGreaterThanOrEqual(10);
    expect(mesh.broken.length).toBeGreaterThan(0);
    for (const line of mesh.broken)
      expect(line).toBe("a: liar sent a piece of model.safetensors that is not the model's");
  });

  it("go on from another where the one who gives them leaves, and nothing comes twice", async () => {
    mesh = new Mesh(["leader", "a", "b"]);
    for (const id of ["leader", "a"]) mesh.exchanges.get(id)!.serve(memoryFiles(contents));
    mesh.exchanges.get("leader")!.direct({ loading: ["b"], ready: ["a"] });
    const files = mesh.exchanges.get("b")!.files("model");
    await files.read("config.json");
    let reads = 0;
    const got = await readAll(files, () => {
      if (++reads === 3) mesh!.leave("a");
    });
    expectModel(got);
    expect(mesh.received("b", "a")).toBeGreaterThan(2);
    expect(mesh.received("b", "leader")).toBeGreaterThan(2);
    expect(mesh.received("b", "a") + mesh.received("b", "leader")).toBe(PIECES);
  });

  it("go on under the next leader", async () => {
    mesh = new Mesh(["leader", "next", "b"]);
    for (const id of ["leader", "next"]) mesh.exchanges.get(id)!.serve(memoryFiles(contents));
    const files = mesh.exchanges.get("b")!.files("model");
    let reads = 0;
    const got = await readAll(files, () => {
      if (++reads !== 2) return;
      mesh!.leave("leader");
      mesh!.leaderId = "next";
    });
    expectModel(got);
    expect(mesh.received("b", "next")).toBeGreaterThan(0);
  });

  it("a source that does not answer is passed over", async () => {
    mesh = new Mesh(["leader", "mute", "a"], 150);
    mesh.exchanges.get("leader")!.serve(memoryFiles(contents));
    const stuck = memoryFiles(contents);
    mesh.exchanges.get("mute")!.serve({ ...stuck, read: () => new Promise(() => {}) });
    mesh.exchanges.get("leader")!.direct({ loading: ["a"], ready: ["mute"] });
    const files = mesh.exchanges.get("a")!.files("model");
    expectModel(await readAll(files));
    expect(mesh.received("a", "leader")).toBe(PIECES);
  });

  it("waiting for them can be called off", async () => {
    mesh = new Mesh(["leader", "a"]);
    const abort = new AbortController();
    const reading = mesh.exchanges.get("a")!.files("model").read("config.json", undefined, abort.signal);
    abort.abort(new Error("changed my mind"));
    await expect(reading).rejects.toThrow("changed my mind");
  });
});

describe("what a peer may ask", () => {
  /** A peer whose exchange is replaced by the test's own messages. */
  function intruder(): { link: Link; got: ControlMessage[]; read: string[] } {
    mesh = new Mesh(["leader", "intruder"]);
    const read: string[] = [];
    const files = memoryFiles(contents);
    mesh.exchanges.get("leader")!.serve({
      name: files.name,
      size(path) {
        read.push(path);
        return files.size(path);
      },
      read(path, range, signal) {
        read.push(path);
        return files.read(path, range, signal);
      },
    });
    const link = mesh.links.get("intruder")!.get("leader")!;
    const got: ControlMessage[] = [];
    link.onControl = (message) => void got.push(message);
    return { link, got, read };
  }
  const until = async (isTrue: () => boolean) => {
    while (!isTrue()) await new Promise((resolve) => setTimeout(resolve, 2));
  };

  it("are plain names of model files: no path reaches the source", async () => {
    const { link, read } = intruder();
    const bad = [
      "../secret.json",
      "/etc/passwd",
      "a/b.json",
      "..json",
      ".env",
      "http://x/y.json",
      "x.json?y",
      "x.exe",
      "",
    ];
    for (const file of bad) {
      link.sendControl({ type: "weightsWant", file, piece: 0, ticket: 1 });
      link.sendControl({ type: "weightsAsk", file, first: 0, count: 1 });
    }
    await until(() => mesh!.broken.length === 2 * bad.length);
    expect(read).toEqual([]);
  });

  it("is bounded: so many pieces at once, and each so often", async () => {
    const { link, got } = intruder();
    for (let ticket = 0; ticket < 9; ticket++)
      link.sendControl({ type: "weightsWant", file: "model.safetensors", piece: ticket, ticket });
    await until(() => mesh!.broken.length > 0);
    expect(mesh!.broken).toEqual([
      "leader: intruder asked for more than 8 pieces of the model at once, or twice for one",
    ]);
    for (let ticket = 0; ticket < 9; ticket++) link.sendControl({ type: "weightsCancel", ticket });
    for (let ticket = 100; ticket < 105; ticket++) {
      const key = { epoch: 0, op: ticket, layer: 0, kind: "weights", rank: 9 } as const;
      const parcel = link.receive(key, PIECE_BYTES, AbortSignal.timeout(5000));
      parcel.catch(() => {});
      link.sendControl({ type: "weightsWant", file: "model.safetensors", piece: 9, ticket });
      if (ticket < 104) await parcel;
    }
    await until(() => mesh!.broken.length > 1);
    expect(mesh!.broken[1]).toBe("leader: intruder asked 5 times for piece 9 model.safetensors");
    // What does not exist is refused.
    link.sendControl({ type: "weightsWant", file: "model.safetensors", piece: 10, ticket: 500 });
    await until(() => got.some((message) => message.type === "weightsNone" && message.ticket === 500));
  });

  it("may be anything at all: it is turned down in a sentence", () => {
    const { link } = intruder();
    const leader = mesh!.exchanges.get("leader")!;
    const types = fc.constantFrom(
      ...["weightsSources", "weightsAsk", "weightsHashes", "weightsWant", "weightsCancel", "weightsNone", "weights"],
    );
    const fields = fc.dictionary(
      fc.constantFrom("file", "piece", "ticket", "first", "count", "size", "hashes"),
      fc.anything(),
    );
    const back = mesh!.links.get("leader")!.get("intruder")!;
    fc.assert(
      fc.property(types, fields, (type, rest) => {
        leader.handle(back, { ...rest, type });
      }),
      { numRuns: 1000 },
    );
    expect(link.isClosed).toBe(false);
    for (const line of mesh!.broken) expect(line).toMatch(/^leader: intruder (parseWeightsMessage|asked)/);
  });
});

it("those who load form a chain, in the order in which they came", () => {
  expect([...planWeightSources(["a", "b"], ["leader", "x"])]).toEqual([
    ["a", { ahead: undefined, ready: ["leader", "x"] }],
    ["b", { ahead: "a", ready: ["leader", "x"] }],
  ]);
});

it("fingerprints tell models apart by their small files and headers", async () => {
  const base = await modelFingerprint(memoryFiles(contents));
  expect(base).toMatch(/^[0-9a-f]{64}$/);
  expect(await modelFingerprint(memoryFiles(modelBytes()))).toBe(base);
  expect(await modelFingerprint(memoryFiles({ ...contents, "config.json": "{}" }))).not.toBe(base);
  const bytes = new Uint8Array(237_500 * 4);
  const renamed = packTensors([{ name: "b", dtype: "F32", shape: [237_500], bytes }]);
  expect(await modelFingerprint(memoryFiles({ ...contents, "model.safetensors": renamed }))).not.toBe(base);
  const index = JSON.stringify({ weight_map: { a: "s1.safetensors", b: "s2.safetensors", c: "../../x.safetensors" } });
  const shard = contents["model.safetensors"]!;
  const sharded = {
    ...contents,
    "model.safetensors.index.json": index,
    "s1.safetensors": shard,
    "s2.safetensors": shard,
  };
  expect(await modelFingerprint(memoryFiles(sharded))).not.toBe(base);
  const broken = memoryFiles({ ...contents, "model.safetensors": new Uint8Array(20).fill(255) });
  await expect(modelFingerprint(broken)).rejects.toThrow(ModelSourceError);
});
