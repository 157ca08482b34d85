/**
 * The page's part in a ring of peers: makes or joins a room, hands its connections to the engine, and keeps everything that
 * is shown of the ring true. The computing is the engine's business.
 */
import { joinRoom, type PeerEvent, type PeerStatus, type Room, type RoomOptions } from "../../src/index.ts";
import type { DemoRole, PeersHook } from "../automation.ts";
import { SelfFields } from "../controls/self-fields.ts";
import { byId } from "../dom.ts";
import { formatCount } from "../format.ts";
import type { EngineError, ModelChoice } from "../protocol.ts";
import type { Session } from "../session.ts";
import { InviteView } from "../views/invite-view.ts";
import { JoinView } from "../views/join-view.ts";
import { LogView } from "../views/log-view.ts";
import { PeersView } from "../views/peers-view.ts";
import type { PeerMessage } from "./peer-protocol.ts";
import { RingStory } from "./ring-story.ts";
import { memoryOf, seatsOf } from "./seats.ts";

/** Milliseconds between two drawings of the ring's state. */
const DRAW_MS = 100;
const SWEEP_MS = 2000;
const MOST_EVENTS = 2000;

/** How rooms of this page are made and joined: what its URL says. */
export type RoomChoice = Pick<RoomOptions, "signalling" | "iceServers" | "lanes" | "link">;

const describeError = (error: unknown): EngineError => {
  const { name = "Error", message = String(error) } = error as Partial<Error>;
  return { name, message };
};

/** What the page lends its part in a ring. */
export interface PeersPartOptions {
  session: Session;
  /** What the ring is to run; undefined where the page has said that something is missing. */
  readModel: () => ModelChoice | undefined;
  room: RoomChoice;
  parameters: URLSearchParams;
  /** That the page was opened with. */
  invitation: string | undefined;
  /** The ring, or this page's role in it, is another now. */
  onChange: () => void;
}

/** One page's place in at most one ring at a time. */
export class PeersPart implements PeersHook {
  role: DemoRole = "alone";
  readonly peerEvents: { timeMs: number; event: PeerEvent }[] = [];
  private story = new RingStory();
  private room: Room | undefined;
  private joining: Promise<Room> | undefined;
  private peaks = new Map<string, number>();
  private drawTimer: ReturnType<typeof setTimeout> | undefined;
  private waiters: { count: number; resolve(peers: readonly PeerStatus[]): void }[] = [];
  private readonly fields: SelfFields;
  private readonly inviteView = new InviteView(
    () => void this.invite().catch(() => {}),
    (isOn) => this.admitAll(isOn),
  );
  private readonly joinView = new JoinView(
    () => void this.join().catch(() => {}),
    () => void this.leave(),
  );
  private readonly peersView = new PeersView(this);
  private readonly logView = new LogView();

  private readonly session: Session;
  private readonly invitation: string | undefined;

  constructor(private readonly options: PeersPartOptions) {
    const { session, parameters, invitation } = options;
    this.session = session;
    this.invitation = invitation;
    this.fields = new SelfFields(parameters);
    if (parameters.get("admitAll") === "0") this.inviteView.isAdmittingAll = false;
    if (invitation) {
      this.role = "peer";
      this.joinView.open();
    }
    byId("close-ring").addEventListener("click", () => void this.leave());
    // At once, while the page still can: nobody should have to find out by waiting.
    addEventListener("pagehide", () => this.room?.leave());
    addEventListener("pageshow", (event) => event.persisted && this.room && location.reload());
    setInterval(() => this.story.sweep(performance.now()) && this.draw(), SWEEP_MS);
  }

  get peers(): readonly PeerStatus[] {
    return this.story.peers;
  }

  /** Whether runs go over a ring of peers. */
  get isOpen(): boolean {
    return this.room !== undefined;
  }

  /** Ranks that a run would have now. */
  get rankCount(): number {
    return Math.max(1, this.story.readyCount);
  }

  async invite(): Promise<string> {
    if (!this.room) {
      const model = this.options.readModel();
      if (!model) throw new Error("invite: no model is chosen");
      this.inviteView.wait();
      await this.enter("leader", undefined, model);
    }
    this.inviteView.show(this.room!.invitation);
    return this.room!.invitation;
  }

  async join(): Promise<void> {
    if (this.room || !this.invitation) return;
    this.joinView.joining();
    await this.enter("peer", this.invitation, undefined);
  }

  admit(peerId: string): void {
    this.story.answered(peerId);
    this.session.client.peer({ type: "peerAdmit", peerId });
    this.draw();
  }

  remove(peerId: string): void {
    this.story.answered(peerId);
    this.session.client.peer({ type: "peerRemove", peerId, reason: "removed by the leader" });
    this.draw();
  }

  peersReady(count: number): Promise<readonly PeerStatus[]> {
    return new Promise((resolve) => {
      this.waiters.push({ count, resolve });
      this.answerWaiters();
    });
  }

  async leave(): Promise<void> {
    if (!this.room && !this.joining) return;
    this.exit("You have left the ring.");
  }

  /** What the engine says of peers. */
  receive(message: PeerMessage): void {
    switch (message.type) {
      case "peerOpen":
        this.tell({ type: "peers", peers: message.peers });
        return;
      case "peerEvent":
        this.tell(message.event);
        return;
      case "peerProgress":
        this.session.peerProgress(message);
        return;
      case "peerReconnect":
        this.room?.reconnect(message.peerId);
        return;
      case "peerBan":
        this.room?.ban(message.peerId);
        return;
      case "peerFailed":
        if (message.isOver) this.exit("This machine is no longer in the ring.");
        this.session.tell(message.error);
        return;
    }
  }

  private async enter(role: "leader" | "peer", invitation: string | undefined, model: ModelChoice | undefined) {
    this.story = new RingStory();
    this.peaks.clear();
    this.peersView.reset();
    const { client } = this.session;
    // Peers may be found before the room has told its own id: the engine keeps their wires until it knows who it is.
    const joining = joinRoom({
      ...this.options.room,
      invitation,
      // Without the parameters that drive this page.
      pageUrl: location.origin + location.pathname,
      onWires: (peerId, source) =>
        client.peer(
          { type: "peerWires", peerId, source },
          source.kind === "webrtc" ? (source.channels as unknown as Transferable[]) : [source.port],
        ),
      onLeft: (peerId, reason) => client.peer({ type: "peerGone", peerId, reason }),
      onRefused: (reason) => this.say(reason, "bad"),
      onSignalling: (state, message) => state === "lost" && this.say(message, "bad"),
    });
    this.joining = joining;
    this.fields.isDisabled = true;
    try {
      const room = await joining;
      // Cancelled meanwhile.
      if (this.joining !== joining) return room.leave();
      this.room = room;
    } catch (error) {
      if (this.joining !== joining) return;
      this.exit("The ring could not be reached.");
      this.session.tell(describeError(error));
      throw error;
    }
    const { name, memoryBytes } = this.fields;
    client.peer({
      type: "peerStart",
      self: {
        id: this.room.selfId,
        name,
        memoryBytes,
        isLeader: role === "leader",
        admitAll: this.inviteView.isAdmittingAll,
        model,
      },
    });
    this.setRole(role);
  }

  private exit(text: string): void {
    this.session.client.peer({ type: "peerLeave", reason: "left" });
    this.room?.leave();
    this.room = this.joining = undefined;
    this.session.abandon();
    this.fields.isDisabled = false;
    this.inviteView.reset();
    this.say(text);
    this.story.peers = [];
    this.story.asking = [];
    if (this.invitation) {
      this.setRole("peer");
      this.joinView.open();
      this.joinView.outside("Out of the ring", `${text} The link still works while others are in the ring.`);
    } else this.setRole("alone");
    this.draw();
  }

  private setRole(role: DemoRole): void {
    this.role = role;
    if (role !== "peer") this.joinView.close();
    const isOpen = this.isOpen;
    byId<HTMLFieldSetElement>("model-group").disabled = isOpen;
    byId("ring-of-peers").hidden = !isOpen;
    byId("world-size-field").hidden = isOpen;
    byId("close-ring").hidden = !isOpen || role === "peer";
    byId("self-details").hidden = isOpen || role === "peer";
    this.session.mayStopWatched = role !== "peer";
    this.options.onChange();
  }

  private admitAll(isOn: boolean): void {
    this.session.client.peer({ type: "peerAdmitAll", isOn });
    if (isOn) for (const { peerId } of [...this.story.asking]) this.admit(peerId);
  }

  private tell(event: PeerEvent): void {
    const nowMs = performance.now();
    if (!this.room && event.type !== "load") return;
    if (event.type === "closed") {
      this.exit(event.reason);
      this.session.tell({ name: "OutOfRingError", message: event.reason });
      return;
    }
    this.story.tell(event, nowMs);
    if (event.type !== "peers" && event.type !== "piece" && event.type !== "load") {
      this.peerEvents.push({ timeMs: nowMs, event });
      if (this.peerEvents.length > MOST_EVENTS) this.peerEvents.shift();
    }
    if (event.type === "load" && this.role === "peer") this.joinView.load(event.progress);
    if (event.type === "leader" && event.isSelf && this.role === "peer") this.takeOver();
    else if (event.type === "leader" && !event.isSelf && this.role === "leader") this.setRole("peer");
    this.session.peerEvent(event);
    this.session.automation.peerEvent(event);
    this.draw();
  }

  /** The leader has gone, and this machine leads now: the form comes back, with Stop for the answer under way. */
  private takeOver(): void {
    this.setRole("leader");
    this.inviteView.show(this.room!.invitation);
    this.inviteView.toggle(false);
  }

  private say(text: string, tone: "plain" | "bad" = "plain"): void {
    this.story.say(performance.now(), text, tone);
    this.draw();
  }

  private draw(): void {
    this.drawTimer ??= setTimeout(() => {
      this.drawTimer = undefined;
      this.drawNow();
    }, DRAW_MS);
    this.answerWaiters();
  }

  private drawNow(): void {
    const { story, session } = this;
    this.peersView.show(story, this.role === "leader");
    this.logView.show(story.lines);
    this.joinView.show(this.role === "peer" ? story.self : undefined, story.leader);
    if (!this.isOpen) {
      session.showPeers(undefined);
      return;
    }
    session.showPeers(seatsOf(story), memoryOf(story, this.peaks));
    const count = this.rankCount;
    byId("ring-of-peers-note").textContent =
      count === 1
        ? "The ring is of peers now, and so far this machine is the only one; whoever joins takes part from then on. It keeps its model: leave the ring to choose another one."
        : `The ring is of ${formatCount(count)} peers now, each of them one rank; how much of the text each one reads follows from its speed and memory. It keeps its model: leave the ring to choose another one.`;
    this.options.onChange();
  }

  private answerWaiters(): void {
    const ready = this.story.readyCount;
    this.waiters = this.waiters.filter(({ count, resolve }) => {
      if (ready >= count) resolve(this.peers);
      return ready < count;
    });
  }
}
