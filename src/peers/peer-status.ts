/** How a peer is doing, as it tells the others, and how all of them are, as it shows them to people. */
import { tokenCount } from "../ring/shard.ts";
import type { PeerCore } from "./core.ts";
import type { Member } from "./members.ts";
import type { PeerMessage } from "./messages.ts";
import type { PeerState, PeerStatus } from "./types.ts";

/** What goes to everyone once a second. */
export function toldStatus(core: PeerCore): PeerMessage<"status"> {
  const rank = core.engine.open?.rank;
  return {
    type: "status",
    state: core.stage,
    epoch: core.acceptedEpoch,
    ...(core.leaderId !== undefined && core.stage === "working" && { leaderId: core.leaderId }),
    ...(core.leading && { leaderId: core.id }),
    incarnation: core.incarnation,
    ...(core.model && core.engine.open && { fingerprint: core.model.fingerprint }),
    capacityTokens: core.capacityTokens,
    usedBytes: rank?.gpuBytes ?? 0,
    heldTokens: rank ? tokenCount(rank.held) : 0,
    ...(core.multiplyAddsPerSecond !== undefined && { multiplyAddsPerSecond: core.multiplyAddsPerSecond }),
    linked: core.members.reachable.map(({ id }) => id).slice(0, 64),
    adapterName: core.engine.adapterName.slice(0, 500),
  };
}

/** Everyone, this peer first. */
export function shownPeers(core: PeerCore): PeerStatus[] {
  const ranks = core.epoch?.ranks ?? [];
  const rankOf = (id: string) => {
    const rank = ranks.findIndex((seat) => seat.id === id);
    return rank < 0 ? {} : { rank };
  };
  const rank = core.engine.open?.rank;
  const self: PeerStatus = {
    id: core.id,
    name: core.options.name,
    isSelf: true,
    isLeader: core.leading !== undefined,
    state: core.closedReason === undefined ? core.stage : "gone",
    ...rankOf(core.id),
    adapterName: core.engine.adapterName,
    memoryBytes: core.options.memoryBytes,
    usedBytes: rank?.gpuBytes ?? 0,
    heldTokens: rank ? tokenCount(rank.held) : 0,
    ...(core.multiplyAddsPerSecond !== undefined && { multiplyAddsPerSecond: core.multiplyAddsPerSecond }),
    ...(core.closedReason !== undefined && { reason: core.closedReason }),
  };
  return [self, ...core.members.all.map((member) => ({ ...statusOf(core, member), ...rankOf(member.id) }))];
}

function statusOf(core: PeerCore, member: Member): PeerStatus {
  const { hello, status, link } = member;
  const state: PeerState = !member.isReachable
    ? "gone"
    : member.isSuspected
      ? "suspected"
      : (status?.state ?? "connecting");
  return {
    id: member.id,
    name: hello?.name ?? member.id,
    isSelf: false,
    isLeader: core.leaderId === member.id && core.leading === undefined,
    state,
    adapterName: status?.adapterName ?? hello?.adapterName ?? "",
    memoryBytes: hello?.memoryBytes ?? 0,
    usedBytes: status?.usedBytes ?? 0,
    heldTokens: status?.heldTokens ?? 0,
    ...(status?.multiplyAddsPerSecond !== undefined && { multiplyAddsPerSecond: status.multiplyAddsPerSecond }),
    linkKind: link.kind,
    ...(link.bytesPerSecond !== undefined && { bytesPerSecond: link.bytesPerSecond }),
    ...(link.roundTripMs !== undefined && { roundTripMs: link.roundTripMs }),
    ...(!member.isReachable && { reason: member.goneReason ?? "silent" }),
  };
}
