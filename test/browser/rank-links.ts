/** Two ends of a link over wires in memory, for rings within one page. */
import { createLink, type OwnLink } from "../../src/link/link.ts";
import { createMemoryWires } from "../../src/link/wire-memory.ts";

/** The end of peer `first`, and that of peer `second`. */
export function linkPair(first: string, second: string, epoch: number): [OwnLink, OwnLink] {
  const [mine, theirs] = createMemoryWires();
  const ends: [OwnLink, OwnLink] = [
    createLink({ selfId: first, peerId: second, wires: [mine] }),
    createLink({ selfId: second, peerId: first, wires: [theirs] }),
  ];
  for (const end of ends) end.setEpoch(epoch);
  return ends;
}
