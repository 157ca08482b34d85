/** A ring inside one page: MessageChannels between the engine workers of `--link worker`, with nobody to be let in. */

/** One worker's ports, by the id of the peer at the other end. */
export type MeshPorts = Map<string, MessagePort>;

/**
 * A MessageChannel for each pair of peers.
 * @param ids One per worker; each gets the ports to all the others, to be transferred to it.
 */
export function createWorkerMesh(ids: readonly string[]): Map<string, MeshPorts> {
  const mesh = new Map<string, MeshPorts>(ids.map((id) => [id, new Map()]));
  ids.forEach((a, i) => {
    for (const b of ids.slice(i + 1)) {
      const { port1, port2 } = new MessageChannel();
      mesh.get(a)!.set(b, port1);
      mesh.get(b)!.set(a, port2);
    }
  });
  return mesh;
}
