/** Everyone in the ring, a row each: who it is, what it holds, how fast it is, how it is reached, how it fares. */
import type { PeerState } from "../../src/index.ts";
import { byId, html, rankColor } from "../dom.ts";
import { formatBytes, formatCount, formatFigure, formatMs, formatRate } from "../format.ts";
import type { Asking, RingStory, ShownPeer } from "../peers/ring-story.ts";

const STATES: Record<PeerState, string> = {
  connecting: "Connecting",
  asking: "Asks to come in",
  loading: "Loading the model",
  ready: "Ready",
  working: "In the ring",
  suspected: "Silent",
  gone: "Gone",
};

const LINKS = { memory: "this page", worker: "worker", tab: "tab of this browser", webrtc: "WebRTC" } as const;

/** What the person may do with others. */
export interface PeersActions {
  admit(peerId: string): void;
  remove(peerId: string): void;
}

interface Row {
  item: HTMLLIElement;
  badge: HTMLElement;
  name: HTMLElement;
  tags: HTMLElement;
  state: HTMLElement;
  gpu: HTMLElement;
  bar: HTMLElement;
  facts: Record<"memory" | "tokens" | "speed" | "link", HTMLElement>;
  remove: HTMLButtonElement;
}

/** "WebRTC, 41.2 MB/s, 3.14 ms". */
export function describeLink(peer: ShownPeer): string {
  if (peer.isSelf) return "this machine";
  if (!peer.linkKind) return "–";
  const parts: string[] = [LINKS[peer.linkKind]];
  if (peer.bytesPerSecond) parts.push(`${formatFigure(peer.bytesPerSecond / 1e6)}\u00a0MB/s`);
  if (peer.roundTripMs !== undefined) parts.push(formatMs(peer.roundTripMs));
  return parts.join(", ");
}

/** Draws the rows, and those who wait to be let in. */
export class PeersView {
  private readonly list = byId("peer-list");
  private readonly askers = byId("askers");
  private readonly summary = byId("peers-summary");
  private readonly rows = new Map<string, Row>();

  constructor(private readonly actions: PeersActions) {}

  show(story: RingStory, mayRemove: boolean): void {
    // Those who ask to come in stand above the list, with their buttons.
    const askers = mayRemove ? story.asking : [];
    const peers = story.peers.filter(({ id }) => !askers.some(({ peerId }) => peerId === id));
    this.list.hidden = peers.length === 0;
    const ids = new Set(peers.map(({ id }) => id));
    for (const [id, { item }] of this.rows)
      if (!ids.has(id)) {
        item.remove();
        this.rows.delete(id);
      }
    peers.forEach((peer, index) => {
      let row = this.rows.get(peer.id);
      if (!row) this.rows.set(peer.id, (row = this.newRow(peer.id)));
      this.fill(row, peer, Math.max(1, story.ranks.length), mayRemove);
      if (this.list.children[index] !== row.item) this.list.insertBefore(row.item, this.list.children[index] ?? null);
    });
    this.showAskers(askers);
    const text = describeRing(story);
    if (this.summary.textContent !== text) this.summary.textContent = text;
  }

  reset(): void {
    this.rows.clear();
    this.list.replaceChildren();
    this.askers.replaceChildren();
    this.summary.textContent = "";
  }

  private showAskers(asking: readonly Asking[]): void {
    this.askers.hidden = asking.length === 0;
    const ids = asking.map(({ peerId }) => peerId).join(" ");
    // Rebuilt only where someone came or was answered, so that the focus stays on its button.
    if (this.askers.dataset.ids === ids) return;
    this.askers.dataset.ids = ids;
    this.askers.replaceChildren(
      ...asking.map(({ peerId, name, adapterName }) => {
        const letIn = html("button", { type: "button", class: "primary", "data-admit": peerId }, "Let in");
        const refuse = html("button", { type: "button", class: "quiet", "data-refuse": peerId }, "Refuse");
        letIn.setAttribute("aria-label", `Let ${name} in`);
        refuse.setAttribute("aria-label", `Refuse ${name}`);
        letIn.addEventListener("click", () => this.actions.admit(peerId));
        refuse.addEventListener("click", () => this.actions.remove(peerId));
        return html(
          "li",
          {},
          html("p", {}, html("strong", {}, name), ` asks to come in`, html("span", { class: "peer-gpu" }, adapterName)),
          letIn,
          refuse,
        );
      }),
    );
  }

  private newRow(id: string): Row {
    const badge = html("span", { class: "peer-rank", "aria-hidden": "true" });
    const name = html("strong", { class: "peer-name" });
    const tags = html("span", { class: "peer-tags" });
    const state = html("span", { class: "peer-state" });
    const gpu = html("p", { class: "peer-gpu" });
    const bar = html("span", { class: "memory-bar" });
    const fact = () => html("dd");
    const facts = { memory: fact(), tokens: fact(), speed: fact(), link: fact() };
    const remove = html("button", { type: "button", class: "link small", "data-remove": id }, "Remove");
    remove.addEventListener("click", () => this.actions.remove(id));
    const group = (label: string, value: HTMLElement, ...more: Node[]) =>
      html("div", {}, html("dt", {}, label), value, ...more);
    const item = html(
      "li",
      { class: "peer", "data-peer": id },
      badge,
      html("div", { class: "peer-who" }, name, gpu),
      html(
        "dl",
        { class: "peer-facts" },
        group("Memory", facts.memory, html("span", { class: "memory-track", "aria-hidden": "true" }, bar)),
        group("Holds", facts.tokens),
        group("Speed", facts.speed),
        group("Link, round trip", facts.link),
      ),
      html("p", { class: "peer-status" }, state, tags, remove),
    );
    return { item, badge, name, tags, state, gpu, bar, facts, remove };
  }

  private fill(row: Row, peer: ShownPeer, worldSize: number, mayRemove: boolean): void {
    const { item, badge, name, tags, state, gpu, bar, facts, remove } = row;
    const isGone = peer.state === "gone";
    item.dataset.state = peer.state;
    const color = peer.rank === undefined ? "" : rankColor(peer.rank, worldSize);
    item.style.setProperty("--c", color || "var(--line-strong)");
    write(badge, isGone ? "×" : peer.rank === undefined ? "·" : String(peer.rank));
    write(name, peer.isSelf ? `${peer.name} (you)` : peer.name);
    write(tags, peer.isLeader && !isGone ? "leads" : "");
    write(state, STATES[peer.state]);
    write(gpu, isGone && peer.reason ? peer.reason : peer.adapterName);
    write(facts.memory, `${formatBytes(peer.usedBytes)} of ${formatBytes(peer.memoryBytes)}`);
    bar.style.width = `${Math.min(100, (peer.usedBytes / Math.max(1, peer.memoryBytes)) * 100)}%`;
    write(facts.tokens, `${formatCount(peer.heldTokens)} tokens`);
    write(facts.speed, peer.multiplyAddsPerSecond ? formatRate(peer.multiplyAddsPerSecond) : "not yet known");
    write(facts.link, describeLink(peer));
    remove.hidden = !mayRemove || peer.isSelf || isGone;
    remove.setAttribute("aria-label", `Remove ${peer.name}`);
  }
}

function write(element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

function describeRing(story: RingStory): string {
  const { readyCount, presentCount } = story;
  if (presentCount === 0) return "";
  if (presentCount === 1) return "Nobody else yet";
  const waiting = presentCount - readyCount;
  return `${formatCount(presentCount)} peers${waiting > 0 ? `, ${formatCount(waiting)} not ready yet` : ""}`;
}
