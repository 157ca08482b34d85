/** All ranks on one device, blocks in GPU memory: to send a block is to hand over a reference. */
import { OptionError } from "../errors.ts";
import type { KvPage, RingBlock } from "./kv-page.ts";
import { sendRank } from "./schedule.ts";
import type { ArrivedPage, Transport } from "./transport.ts";

/** One rank's letter box: blocks that came before they were asked for, and those who wait for one. */
class Inbox {
  private readonly blocks: RingBlock[] = [];
  private readonly takers: ((block: RingBlock) => void)[] = [];

  put(block: RingBlock): void {
    const taker = this.takers.shift();
    if (taker) taker(block);
    else this.blocks.push(block);
  }

  take(): Promise<RingBlock> {
    const block = this.blocks.shift();
    return block ? Promise.resolve(block) : new Promise((resolve) => this.takers.push(resolve));
  }
}

/** Rotation inside one page: {@link Transport.beginPass} without the pages. */
export function beginRotation(worldSize: number): {
  ranks: readonly number[];
  sendRecv(rank: number, block: RingBlock): Promise<RingBlock>;
} {
  const inboxes = Array.from({ length: worldSize }, () => new Inbox());
  return {
    ranks: inboxes.map((_, rank) => rank),
    sendRecv(rank, block) {
      inboxes[sendRank(rank, worldSize)]!.put(block);
      return inboxes[rank]!.take();
    },
  };
}

/** A page that is in GPU memory already. */
export const alreadyThere = (page: KvPage): ArrivedPage => {
  if (page.memory !== "gpu")
    throw new OptionError(
      'transport-local: expected pages in GPU memory, got one in host memory; use blockMemory "host"',
    );
  return { page, startMs: performance.now(), transferMs: 0, release: () => {} };
};

/** The transport of `blockMemory: "gpu"`. */
export const createLocalTransport = (): Transport => ({
  name: "local",
  beginPass: (worldSize) => ({ ...beginRotation(worldSize), bring: alreadyThere }),
  destroy() {},
});
