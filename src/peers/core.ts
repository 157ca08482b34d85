/**
 * One peer from the inside: what it knows of itself and the others, and who does what about it. Messages go to the
 * {@link Follower} or the {@link Leader}; silence, wakefulness and roles are decided here.
 */
import { PeerError } from "../errors.ts";
import type { OwnLink } from "../link/link.ts";
import type { Wire } from "../link/types.ts";
import type { PromptContext } from "../model/generate.ts";
import type { RankRun } from "../model/rank-types.ts";
import { tokenCount } from "../ring/shard.ts";
import { Answer, lostRun, type RunEnd } from "./answer.ts";
import type { PeerClock } from "./clock.ts";
import { Engine, type EngineParts } from "./engine.ts";
import type { Epoch } from "./epoch.ts";
import { Follower } from "./follower.ts";
import { Leader } from "./leader.ts";
import { DROP_MS, type Member, Members } from "./members.ts";
import { type PeerMessage, PROTOCOL, type RunInfo } from "./messages.ts";
import type { OpPlace } from "./op-forward.ts";
import { shownPeers, toldStatus } from "./peer-status.ts";
import { RankWork } from "./rank-work.ts";
import { Replicas } from "./replicas.ts";
import type { PeerEvent, PeerModelDescription, PeerStatus } from "./types.ts";
import { createWeightsExchange, type WeightsExchange } from "./weights-exchange.ts";

/** How often everyone tells everyone how it is doing. */
const STATUS_MS = 1000;
/** A follower lets the leader that it no longer hears be dropped, or drop it, before it takes over. */
const TAKEOVER_GRACE_MS = 500;
/** A higher epoch that someone speaks of, and that does not come, has gone on without this peer. */
const LEFT_BEHIND_MS = 1500;
/** Without a leader for so long, the ring is begun again by whoever comes first. */
const INTERREGNUM_MS = 6000;

/** What a peer is made of. */
export interface CoreOptions {
  id: string;
  name: string;
  isLeader: boolean;
  memoryBytes: number;
  admitAll: boolean;
  clock: PeerClock;
  engine: EngineParts;
  openLink(peerId: string, wires: readonly Wire[]): OwnLink;
  onEvent(event: PeerEvent): void;
  onReconnect(peerId: string): void;
  onBan(peerId: string): void;
}

/** See the module's comment. */
export class PeerCore {
  readonly id: string;
  readonly clock: PeerClock;
  readonly members: Members;
  readonly engine: Engine;
  readonly work: RankWork;
  readonly weights: WeightsExchange;
  readonly replicas: Replicas;
  readonly follower: Follower;
  admitAll: boolean;
  /** The part of the leader, while it is this peer's. */
  leading: Leader | undefined;
  stage: "asking" | "loading" | "ready" | "working" = "asking";
  epoch: Epoch | undefined;
  /** The highest epoch that this peer has been in, and the highest that it has heard of. */
  acceptedEpoch = 0;
  highestEpoch = 0;
  /** Whom it follows, or asks. */
  leaderId: string | undefined;
  admittedBy: string | undefined;
  incarnation = 1;
  model: PeerModelDescription | undefined;
  /** Tokens that K/V memory suffices for; known once the model is there. */
  capacityTokens = 0;
  answer: Answer | undefined;
  /** The model's tokenizer and ids, kept while a lost device is made again. */
  prompts: PromptContext | undefined;
  multiplyAddsPerSecond: number | undefined;
  closedReason: string | undefined;
  private statusSentMs = Number.NEGATIVE_INFINITY;
  private askedMs = Number.NEGATIVE_INFINITY;
  private leaderHeardMs: number;
  private leftBehindMs: number | undefined;
  /** Ranks of the epoch that have left it to begin anew. */
  private readonly beganAnew = new Set<string>();
  private isDirty = true;
  private readonly watchers = new Set<() => void>();

  constructor(readonly options: CoreOptions) {
    this.id = options.id;
    this.clock = options.clock;
    this.admitAll = options.admitAll;
    this.leaderHeardMs = this.clock.now();
    const linkOf = (id: string) => {
      const member = this.members.get(id);
      return member?.isReachable && !member.link.isClosed ? member.link : undefined;
    };
    const onBroken = (id: string, reason: string) => {
      const member = this.members.get(id);
      if (member) this.members.gone(member, `broke the protocol: ${reason}`);
    };
    this.weights = createWeightsExchange({ linkOf, onBroken, leaderId: () => this.leaderId, clock: this.clock });
    this.replicas = new Replicas({
      ...{ linkOf, onBroken },
      work: (work) => this.work.run(work),
      rank: () => this.engine.open?.rank,
    });
    this.engine = new Engine(
      options.engine,
      {
        onProgress: (progress) => this.emit({ type: "load", progress }),
        onReady: ({ description, rank, prompts }) => this.loaded(description, rank, prompts),
        onLost: (message) => this.deviceLost(message),
        onFailed: (error) => this.loadFailed(error),
      },
      this.weights,
    );
    this.work = new RankWork(() => this.engine.rank());
    this.members = new Members(this.clock, options.openLink, {
      onConnected: (member) => this.greet(member),
      onWeights: (member, raw) => {
        if (!this.leading || member.isAdmitted) this.weights.handle(member.link, raw);
      },
      onReplicas: (member, raw) => this.replicas.handle(member.link, raw),
      onMessage: (member, message) => this.receive(member, message),
      onSuspected: (member) => {
        this.emit({ type: "suspected", peerId: member.id, name: this.nameOf(member.id) });
        this.touch();
      },
      onHeard: (member) => {
        if (this.epoch?.ranks.some(({ id }) => id === member.id) !== true) this.greet(member);
        this.touch();
      },
      onReconnect: (member) => options.onReconnect(member.id),
      onLost: (member, reason) => this.memberLost(member, reason),
      onTick: () => this.tick(),
      onWake: (milliseconds) => this.woke(milliseconds),
    });
    this.follower = new Follower(this);
    if (options.isLeader) this.lead("The room was made.");
    if (options.isLeader) this.engine.start(undefined);
  }

  emit(event: PeerEvent): void {
    if (this.closedReason === undefined || event.type === "end") this.options.onEvent(event);
  }

  /** Something changed that those who watch, or wait, should see. */
  touch(): void {
    this.isDirty = true;
    for (const watcher of [...this.watchers]) watcher();
  }

  /** Calls back on every change; the result ends that. */
  watch(watcher: () => void): () => void {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  nameOf(id: string): string {
    return id === this.id ? this.options.name : (this.members.get(id)?.hello?.name ?? id);
  }

  send(id: string, message: PeerMessage): void {
    this.members.send(id, message);
  }

  /** To all other ranks of the epoch. */
  sendToRanks(message: PeerMessage): void {
    for (const { id } of this.epoch?.ranks ?? []) if (id !== this.id) this.send(id, message);
  }

  // --- epochs ---

  /** Becomes a rank of a new epoch: what went on ends, and parcels of earlier epochs are stale. */
  enterEpoch(epoch: Epoch): void {
    this.epoch = epoch;
    this.acceptedEpoch = epoch.number;
    this.highestEpoch = Math.max(this.highestEpoch, epoch.number);
    this.leaderId = epoch.leaderId;
    this.leftBehindMs = undefined;
    this.beganAnew.clear();
    this.work.interrupt(`epoch ${epoch.number} has begun: ${epoch.reason}`);
    this.replicas.interrupt();
    for (const { id } of epoch.ranks) {
      const member = this.members.get(id);
      if (!member) continue;
      member.isAdmitted = true;
      if (!member.link.isClosed) member.link.setEpoch(epoch.number);
    }
    this.touch();
  }

  /** Where the operations of an epoch take place. */
  placeOf(epoch: Epoch, rank: RankRun, signal: AbortSignal): OpPlace {
    return {
      epoch,
      rank,
      signal,
      linkTo: (other) => {
        const id = epoch.ranks[other]?.id;
        const member = id === undefined ? undefined : this.members.get(id);
        if (member && !member.link.isClosed) return member.link;
        throw new PeerError(`operation: expected a link to rank ${other} (${id ?? "nobody"}), got none`);
      },
    };
  }

  /** Another run, or none: what was held of the one before is of no use. */
  setRun(info: RunInfo | undefined): Answer | undefined {
    if (info && this.answer?.info.id === info.id) return this.answer;
    this.endRun(lostRun());
    this.answer = info && this.newAnswer(info);
    return this.answer;
  }

  /** The run is over here. */
  endRun(end: RunEnd): void {
    const { answer } = this;
    if (!answer || answer.end) return;
    answer.finish(end);
    this.emit({ type: "end", stopReason: end.stopReason, message: end.message });
    this.work.interrupt("the run is over");
    this.replicas.clear();
    void this.work.run((rank) => rank.drop()).catch(() => {});
    if (this.epoch?.held) this.epoch.held = this.epoch.ranks.map(() => []);
    this.touch();
  }

  /** Begins anew, holding nothing, as one who asks to be let in: the ring has gone on without this peer. */
  becomeFresh(reason: string): void {
    this.leading?.stop();
    this.leading = undefined;
    this.epoch = undefined;
    this.admittedBy = undefined;
    this.leftBehindMs = undefined;
    this.incarnation++;
    this.stage = "asking";
    this.leaderHeardMs = this.clock.now();
    if (this.leaderId === this.id) this.leaderId = undefined;
    this.work.interrupt(reason);
    this.replicas.clear();
    if (this.engine.isStarted) void this.work.run((rank) => rank.drop()).catch(() => {});
    for (const member of this.members.reachable) this.greet(member);
    this.touch();
  }

  /** Takes the lead. */
  lead(reason: string): void {
    const before = this.epoch;
    this.leaderId = this.id;
    this.leading = new Leader(this, before, reason);
    this.emit({
      type: "leader",
      peerId: this.id,
      isSelf: true,
      message: before ? `${reason} ${this.options.name} leads now.` : reason,
    });
    this.leading.start();
    this.touch();
  }

  // --- what is told to others ---

  private greet(member: Member): void {
    this.send(member.id, {
      type: "hello",
      protocol: PROTOCOL,
      name: this.options.name.slice(0, 200),
      adapterName: this.engine.adapterName.slice(0, 500),
      memoryBytes: this.options.memoryBytes,
      incarnation: this.incarnation,
    });
    this.send(member.id, toldStatus(this));
    this.touch();
  }

  /** Tells everyone how this peer is doing. */
  tellStatus(): void {
    this.statusSentMs = this.clock.now();
    const status = toldStatus(this);
    for (const { id } of this.members.reachable) this.send(id, status);
  }

  // --- what comes in ---

  private receive(member: Member, message: PeerMessage): void {
    if (this.closedReason !== undefined) return;
    switch (message.type) {
      case "hello":
        if (message.protocol !== PROTOCOL) {
          this.members.gone(member, `speaks version ${message.protocol} of the protocol, and this peer ${PROTOCOL}`);
          return;
        }
        member.hello = message;
        this.touch();
        return;
      case "status":
        this.heardStatus(member, message);
        return;
      case "goodbye":
        this.members.gone(member, message.reason);
        return;
      case "stale":
        this.highestEpoch = Math.max(this.highestEpoch, message.epoch);
        this.leading?.stale(member, message.epoch);
        return;
      case "ask":
      case "present":
      case "done":
      case "lost":
      case "stop":
        this.leading?.receive(member, message);
        return;
      case "failed":
        this.leading?.receive(member, message);
        return;
      default:
        this.follower.receive(member, message);
        return;
    }
  }

  private heardStatus(member: Member, status: PeerMessage<"status">): void {
    const before = member.status;
    member.status = status;
    if (before?.state !== status.state || before.heldTokens !== status.heldTokens) this.touch();
    const now = this.clock.now();
    this.highestEpoch = Math.max(this.highestEpoch, status.epoch);
    if (status.leaderId === member.id) {
      this.leaderHeardMs = now;
      // Whoever leads the highest epoch is the one to ask.
      if (!this.epoch && !this.leading) {
        const known = this.leaderId === undefined ? undefined : this.members.get(this.leaderId);
        if (!known?.isReachable || known.status?.leaderId !== known.id || known.status.epoch <= status.epoch)
          this.leaderId = member.id;
      }
      if (this.leading && status.epoch > this.acceptedEpoch) {
        this.becomeFresh(`${this.nameOf(member.id)} leads a later epoch`);
        return;
      }
    }
    if (this.epoch && status.leaderId !== undefined && status.epoch > this.acceptedEpoch) this.leftBehindMs ??= now;
    if (this.epoch?.leaderId === member.id && status.leaderId !== member.id && !this.leading) {
      this.beganAnew.add(member.id);
      this.considerTakeover();
    }
    this.leading?.look();
  }

  // --- what happens ---

  private loaded(description: PeerModelDescription, rank: RankRun, prompts: PromptContext): void {
    this.prompts = prompts;
    this.model = description;
    this.capacityTokens = Math.floor(this.options.memoryBytes / Math.max(1, rank.kvBytesPerToken));
    if (this.stage === "loading") this.stage = this.epoch ? "working" : "ready";
    this.tellStatus();
    this.touch();
    this.leading?.look();
  }

  private deviceLost(message: string): void {
    const reason = `The GPU device of ${this.options.name} was lost and is remade: ${message}`.slice(0, 2000);
    if (this.stage === "working" || this.stage === "ready") this.stage = "loading";
    this.tellStatus();
    if (this.leading) this.leading.notice(reason, true);
    else if (this.epoch)
      this.send(this.epoch.leaderId, {
        type: "failed",
        epoch: this.epoch.number,
        op: 0,
        why: "device",
        message: reason,
      });
    this.touch();
  }

  private loadFailed(error: unknown): void {
    const message = error instanceof Error ? error.message : String(error);
    if (!this.leading || this.epoch?.ranks.length !== 1) this.emit({ type: "end", stopReason: "failed", message });
    this.close(`its model could not be loaded: ${message}`, error);
  }

  private memberLost(member: Member, reason: string): void {
    const { epoch } = this;
    const rank = epoch?.ranks.findIndex(({ id }) => id === member.id) ?? -1;
    if (member.status || rank >= 0) {
      const lostTokens = rank >= 0 ? tokenCount(epoch?.held?.[rank] ?? []) : 0;
      this.emit({ type: "left", peerId: member.id, name: this.nameOf(member.id), reason, lostTokens });
    }
    this.weights.closed(member.id);
    this.touch();
    if (this.leading) {
      this.leading.memberLost(member, reason);
      return;
    }
    if (!epoch || rank < 0) return;
    if (epoch.leaderId === member.id) this.considerTakeover();
    else if (member.goneReason === undefined) this.send(epoch.leaderId, { type: "lost", peerId: member.id });
  }

  /** The lowest rank that lives takes over. */
  private considerTakeover(): void {
    const { epoch } = this;
    if (!epoch || this.leading || this.closedReason !== undefined) return;
    const isThere = (id: string) => this.members.isReachable(id) && !this.beganAnew.has(id);
    if (isThere(epoch.leaderId)) return;
    const first = epoch.ranks.find(({ id }) => id === this.id || isThere(id));
    if (first?.id !== this.id) return;
    const leader = this.members.get(epoch.leaderId);
    const isSure = leader?.goneReason !== undefined || this.beganAnew.has(epoch.leaderId);
    if (!isSure && leader?.lostAtMs !== undefined && this.clock.now() - leader.lostAtMs < TAKEOVER_GRACE_MS) return;
    this.lead(`${this.nameOf(epoch.leaderId)} is gone.`);
  }

  private woke(milliseconds: number): void {
    this.leaderHeardMs = this.clock.now();
    if (milliseconds < DROP_MS || !this.epoch || this.epoch.ranks.length === 1) return;
    this.becomeFresh(`this peer was asleep for ${(milliseconds / 1000).toFixed(1)} s`);
  }

  private tick(): void {
    if (this.closedReason !== undefined) return;
    const now = this.clock.now();
    if (now - this.statusSentMs >= STATUS_MS) this.tellStatus();
    if (this.leading) {
      this.leaderHeardMs = now;
      this.leading.look();
    } else {
      this.considerTakeover();
      if (this.leftBehindMs !== undefined && now - this.leftBehindMs > LEFT_BEHIND_MS && this.epoch)
        this.becomeFresh("the ring has gone on without this peer");
      if (!this.epoch) this.askToComeIn(now);
    }
    if (this.isDirty) {
      this.isDirty = false;
      this.emit({ type: "peers", peers: this.peers() });
    }
  }

  private askToComeIn(now: number): void {
    const leader = this.leaderId === undefined ? undefined : this.members.get(this.leaderId);
    if (leader?.isReachable && leader.status?.leaderId === leader.id) {
      const isAsking = this.stage === "asking" || this.admittedBy !== leader.id;
      if (isAsking && now - this.askedMs >= STATUS_MS) {
        this.askedMs = now;
        this.send(leader.id, { type: "ask", incarnation: this.incarnation });
      }
      return;
    }
    // Nobody leads. Whoever has the model, and was in the ring before, begins it again; the others ask to come in.
    if (now - this.leaderHeardMs < INTERREGNUM_MS || this.acceptedEpoch === 0 || !this.engine.open) return;
    const able = this.members.reachable.filter(
      ({ status }) => status?.fingerprint === this.model?.fingerprint && (status?.epoch ?? 0) > 0,
    );
    if (able.every(({ id }) => id > this.id)) this.lead("Nobody leads any more.");
  }

  /** Ends everything. */
  close(reason: string, error?: unknown): void {
    if (this.closedReason !== undefined) return;
    for (const member of this.members.all) if (!member.link.isClosed) this.send(member.id, { type: "goodbye", reason });
    this.closedReason = reason;
    this.leading?.stop();
    this.leading = undefined;
    this.epoch = undefined;
    const failure =
      error ?? new PeerError(`generate: expected a peer that takes part, got one that has left: ${reason}`);
    this.answer?.finish({ stopReason: "failed", message: reason, error: failure });
    this.work.interrupt(reason);
    this.weights.destroy();
    this.members.close(reason);
    this.engine.close(reason);
    this.touch();
    this.options.onEvent({ type: "closed", reason });
  }

  // --- what is shown ---

  /** The end of a run's prompt as text, for those who watch; empty where the model has none. */
  tailOf(answer: Answer): string {
    const { promptLength } = answer.info;
    const tail = answer.ids.slice(Math.max(0, promptLength - 100), promptLength);
    return (this.prompts?.tokenizer?.decode(tail) ?? "").slice(-200);
  }

  newAnswer(info: RunInfo): Answer {
    return new Answer(
      info,
      () => this.prompts?.tokenizer,
      (piece) => this.emit({ type: "piece", piece }),
    );
  }

  peers(): PeerStatus[] {
    return shownPeers(this);
  }
}
