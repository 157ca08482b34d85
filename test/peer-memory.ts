/** GPU memory of each peer of a ring while a long context is on it: what the long run and the tests measure. */
import type { PeerReport } from "../src/cli/peer-job.ts";
import type { PeerRing } from "../src/cli/peer-ring.ts";
import { needleText } from "../src/index.ts";

/** One ring's figures. */
export interface PeerMemory {
  peers: number;
  promptTokens: number;
  isFound: boolean;
  seconds: number;
  ranks: {
    rank: number;
    kvTokens: number;
    /** At most during the run, of the whole device: weights too. */
    peakBytes: number;
    /** At most during the run, beyond what the device held before it: K/V, activations, blocks on their way. */
    runBytes: number;
    /** K/V, query shards and states, at most, as the statistics tell. */
    rankPeakBytes: number;
  }[];
}

/** Room for BOS and the answer. */
const ANSWER_TOKENS = 64;

/** Asks for a needle in a text; with the answer it has at most `tokensPerPeer` tokens a peer. The members are pages' peers. */
export async function measureMemory(ring: PeerRing, peers: number, tokensPerPeer: number): Promise<PeerMemory> {
  const startMs = performance.now();
  const { text, question, answer } = needleText({
    length: tokensPerPeer * peers - ANSWER_TOKENS,
    depth: 50,
    seed: peers,
  });
  const held = new Map<string, number>();
  for (const member of ring.members) {
    await member.call({ call: "reset" });
    held.set(member.id, (await member.call<PeerReport>({ call: "report" })).gpuBytes);
  }
  const result = await ring.generate({ prompt: text + question, maxNewTokens: answer.length + 8 });
  const peaks = new Map<string, number>();
  for (const member of ring.members)
    peaks.set(member.id, (await member.call<PeerReport>({ call: "report" })).peakGpuBytes);
  return {
    peers,
    promptTokens: result.promptTokens,
    isFound: result.text.includes(answer.trim()),
    seconds: (performance.now() - startMs) / 1000,
    ranks: result.ring.ranks.map(({ rank, peerId, kvTokens, peakGpuBytes }) => ({
      ...{ rank, kvTokens, rankPeakBytes: peakGpuBytes, peakBytes: peaks.get(peerId)! },
      runBytes: peaks.get(peerId)! - held.get(peerId)!,
    })),
  };
}

/** K and V of a token in all layers of the model that Ringwise ships: 5 layers of one head of 64, f32. */
const KV_BYTES_PER_TOKEN = 5 * 2 * 64 * 4;

/** K/V memory that each peer lends: its share. Otherwise shards follow measured speeds, which on a shared machine vary. */
export const memoryFor = (tokensPerPeer: number): number => KV_BYTES_PER_TOKEN * tokensPerPeer;

/** How far the peers' bytes of all rings are apart: most / least - 1. */
export function spreadOf(rows: readonly PeerMemory[]): number {
  const bytes = rows.flatMap(({ ranks }) => ranks.map(({ runBytes }) => runBytes));
  return Math.max(...bytes) / Math.min(...bytes) - 1;
}
