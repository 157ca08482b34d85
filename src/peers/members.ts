/**
 * The peers that this one has links to: who is heard, who is silent, who is gone. Silence is judged from the links alone
 * (their heartbeats never wait for a GPU), and never right after this peer's own clock has jumped.
 */
import type { OwnLink } from "../link/link.ts";
import type { ControlMessage, Wire } from "../link/types.ts";
import type { PeerClock } from "./clock.ts";
import { type PeerMessage, parseMessage, wireMessage } from "./messages.ts";

/** Silence after which a peer is suspected, its connection made anew, and it is dropped. */
export const SUSPECT_MS = 1000;
export const RECONNECT_MS = 2500;
export const DROP_MS = 5000;
/** A dropped peer may come back within this time; then its link is closed. */
export const FORGET_MS = 120_000;
/** How often silence is looked at. */
export const TICK_MS = 200;
/** Control messages per second that nobody sends who keeps to the protocol. */
const MOST_MESSAGES_PER_SECOND = 5000;

/** What is known of one other peer. */
export interface Member {
  readonly id: string;
  link: OwnLink;
  hello: PeerMessage<"hello"> | undefined;
  status: PeerMessage<"status"> | undefined;
  /** Let in by the leader (as seen by the leader, or known from an epoch's ranks). */
  isAdmitted: boolean;
  isSuspected: boolean;
  /** Heard within the last five seconds. */
  isReachable: boolean;
  /** Came back after that only counts from a new beginning. */
  lostAtMs: number | undefined;
  /** Silence counts from here at the earliest. */
  watchedSinceMs: number;
  reconnectAskedMs: number;
  /** Why it is gone for good: said goodbye, was sent away, broke the protocol, or its link closed. */
  goneReason: string | undefined;
  messages: { sinceMs: number; count: number };
}

/** What {@link Members} tells. */
export interface MemberEvents {
  onConnected(member: Member): void;
  onMessage(member: Member, message: PeerMessage): void;
  /** A message of the exchange of weights, not checked yet. */
  onWeights(member: Member, raw: ControlMessage): void;
  /** A message about replicas, not checked yet. */
  onReplicas(member: Member, raw: ControlMessage): void;
  onSuspected(member: Member): void;
  /** Heard again after having been suspected or lost. */
  onHeard(member: Member): void;
  onReconnect(member: Member): void;
  /** Silent for five seconds, or gone for good ({@link Member.goneReason}). */
  onLost(member: Member, reason: string): void;
  onTick(): void;
  /** This peer itself was asleep for so long. */
  onWake(milliseconds: number): void;
}

/** See the module's comment. */
export class Members {
  private readonly members = new Map<string, Member>();
  private readonly banned = new Set<string>();
  private cancelTick: (() => void) | undefined;
  private lastTickMs: number;

  constructor(
    private readonly clock: PeerClock,
    private readonly openLink: (peerId: string, wires: readonly Wire[]) => OwnLink,
    private readonly events: MemberEvents,
  ) {
    this.lastTickMs = clock.now();
    this.schedule();
  }

  get all(): readonly Member[] {
    return [...this.members.values()];
  }

  get reachable(): readonly Member[] {
    return this.all.filter(({ isReachable }) => isReachable);
  }

  get(id: string): Member | undefined {
    return this.members.get(id);
  }

  isReachable(id: string): boolean {
    return this.members.get(id)?.isReachable ?? false;
  }

  /** A peer has been found, or found again. */
  connect(peerId: string, wires: readonly Wire[]): void {
    const known = this.members.get(peerId);
    if (this.banned.has(peerId)) {
      for (const wire of wires) wire.close();
      return;
    }
    const now = this.clock.now();
    if (known && !known.link.isClosed) {
      known.watchedSinceMs = now;
      known.link.attach(wires);
      return;
    }
    const link = this.openLink(peerId, wires);
    const member: Member = {
      id: peerId,
      link,
      hello: undefined,
      status: undefined,
      isAdmitted: known?.isAdmitted ?? false,
      isSuspected: false,
      isReachable: true,
      lostAtMs: undefined,
      watchedSinceMs: now,
      reconnectAskedMs: 0,
      goneReason: undefined,
      messages: { sinceMs: now, count: 0 },
    };
    this.members.set(peerId, member);
    link.onControl = (raw) => this.receive(member, raw);
    link.onViolation = (reason) => this.gone(member, `broke the protocol: ${reason}`);
    link.onClose = (reason) => {
      const isNews = member.goneReason === undefined;
      this.gone(member, reason);
      if (isNews && reason.endsWith("started anew")) this.events.onReconnect(member);
    };
    link.onWiresLost = (reason) => {
      // A port closes with its page, as a rule: nobody waits. Where the page lives, the room makes another port.
      if (link.kind === "worker" || link.kind === "tab") this.gone(member, `its port has closed (${reason})`);
      member.reconnectAskedMs = this.clock.now();
      this.events.onReconnect(member);
    };
    this.events.onConnected(member);
  }

  /** Sends to one peer. A message to someone who is gone goes nowhere. */
  send(id: string, message: PeerMessage): void {
    const member = this.members.get(id);
    if (!member || member.link.isClosed) return;
    try {
      member.link.sendControl(wireMessage(message));
    } catch (error) {
      this.gone(member, `could not be reached: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  /** Gone for good, by word or by deed; its link is closed. */
  gone(member: Member, reason: string): void {
    if (member.goneReason !== undefined) return;
    this.lookAtClock(this.clock.now());
    member.goneReason = reason;
    const wasReachable = member.isReachable;
    member.isReachable = false;
    member.lostAtMs ??= this.clock.now();
    member.link.onControl = undefined;
    member.link.close(reason);
    if (wasReachable) this.events.onLost(member, reason);
  }

  ban(id: string): void {
    this.banned.add(id);
  }

  close(reason: string): void {
    this.cancelTick?.();
    this.cancelTick = undefined;
    for (const member of this.members.values()) {
      member.goneReason ??= reason;
      member.isReachable = false;
      member.link.close(reason);
    }
  }

  private receive(member: Member, raw: ControlMessage): void {
    if (member.goneReason !== undefined) return;
    const now = this.clock.now();
    this.lookAtClock(now);
    if (now - member.messages.sinceMs > 1000) member.messages = { sinceMs: now, count: 0 };
    if (++member.messages.count > MOST_MESSAGES_PER_SECOND) {
      this.gone(member, `broke the protocol: more than ${MOST_MESSAGES_PER_SECOND} messages in a second`);
      return;
    }
    if (typeof raw.type === "string" && raw.type.startsWith("weights")) {
      this.events.onWeights(member, raw);
      return;
    }
    if (typeof raw.type === "string" && raw.type.startsWith("replica")) {
      this.events.onReplicas(member, raw);
      return;
    }
    const { message, problem } = parseMessage(raw);
    if (message) this.events.onMessage(member, message);
    else this.gone(member, `broke the protocol: ${problem}`);
  }

  private schedule(): void {
    this.cancelTick = this.clock.after(TICK_MS, () => {
      this.schedule();
      this.tick();
    });
  }

  /** Before anything is done about what came: was this peer itself asleep? */
  private lookAtClock(now: number): void {
    const asleepMs = now - this.lastTickMs - TICK_MS;
    if (asleepMs <= SUSPECT_MS) return;
    this.lastTickMs = now;
    // What came meanwhile is still to be read: nobody is silent because this one was asleep.
    for (const member of this.members.values()) member.watchedSinceMs = now;
    this.events.onWake(asleepMs);
  }

  private tick(): void {
    const now = this.clock.now();
    this.lookAtClock(now);
    this.lastTickMs = now;
    for (const member of this.members.values()) if (member.goneReason === undefined) this.judge(member, now);
    this.events.onTick();
  }

  private judge(member: Member, now: number): void {
    const heardMs = member.link.lastHeardMs;
    const silentMs = now - Math.max(heardMs, member.watchedSinceMs);
    if (!member.isReachable) {
      if (member.lostAtMs !== undefined && heardMs > member.lostAtMs) {
        member.isReachable = true;
        member.isSuspected = false;
        member.lostAtMs = undefined;
        this.events.onHeard(member);
      } else if (now - (member.lostAtMs ?? now) > FORGET_MS) this.gone(member, "did not come back");
      else this.askToReconnect(member, now, silentMs);
      return;
    }
    if (silentMs > DROP_MS) {
      member.isReachable = false;
      member.lostAtMs = now;
      this.events.onLost(member, `silent for ${DROP_MS / 1000} seconds`);
      return;
    }
    const isSuspected = silentMs > SUSPECT_MS;
    if (isSuspected !== member.isSuspected) {
      member.isSuspected = isSuspected;
      if (isSuspected) this.events.onSuspected(member);
      else this.events.onHeard(member);
    }
    this.askToReconnect(member, now, silentMs);
  }

  private askToReconnect(member: Member, now: number, silentMs: number): void {
    if (silentMs < RECONNECT_MS || now - member.reconnectAskedMs < RECONNECT_MS) return;
    member.reconnectAskedMs = now;
    this.events.onReconnect(member);
  }
}
