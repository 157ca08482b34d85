/**
 * The leader's part: lets peers in, opens epochs by roll calls, and drives the run. One mechanism for everything that can
 * happen to the ring: stop, ask everyone who is left what they hold, compute what nobody holds, go on.
 */
import { PeerError } from "../errors.ts";
import { tokenCount } from "../ring/shard.ts";
import type { TokenRange } from "../ring/types.ts";
import type { Answer, RunEnd } from "./answer.ts";
import type { PeerCore } from "./core.ts";
import { type Epoch, epochCounter, epochNumber, freeSeat } from "./epoch.ts";
import { causeOf, sentenceOf } from "./follower.ts";
import { differenceOf, intersectionOf, unionOf } from "./holdings.ts";
import type { Member } from "./members.ts";
import { type PeerMessage, type RunInfo, type Seat, TEXT_CHUNK } from "./messages.ts";
import { RunFigures } from "./run-figures.ts";
import { RunLoop } from "./run-loop.ts";
import { PeerSpeeds } from "./speeds.ts";
import type { PeerGenerateStatistics } from "./types.ts";

/** A rank that hears a roll call and does not answer it is dropped after so long, unless it says that it is loading. */
const PRESENT_MS = 10_000;
/** Operations that fail one after the other, with nothing done in between, before the run is given up. */
const MOST_FAILURES = 4;

/** Work of the leader that ended because something happened; what it is stands in the reasons for the next epoch. */
class Interrupted extends Error {}

/** See the module's comment. */
export class Leader {
  readonly speeds = new PeerSpeeds();
  private ranks: readonly Seat[];
  /** Sentences: why a new epoch is due. */
  private reasons: string[] = [];
  private noticedMs: number | undefined;
  private controller = new AbortController();
  private readonly presents = new Map<string, PeerMessage<"present">>();
  private readonly excluded = new Set<string>();
  /** Which life of each rank the epoch counts on. */
  private readonly incarnations = new Map<string, number>();
  private readonly asking = new Set<string>();
  private waiting: (() => void)[] = [];
  private failures = 0;
  private isStopped = false;
  private readonly runLoop: RunLoop;
  /** Of the epoch before: what somebody held. */
  private heldBefore: TokenRange[];

  constructor(
    private readonly core: PeerCore,
    before: Epoch | undefined,
    reason: string,
  ) {
    const self = before?.ranks[before.rank] ?? { id: core.id, seat: 0 };
    this.ranks = [self, ...(before?.ranks ?? []).filter(({ id }) => id !== core.id)];
    this.heldBefore = unionOf(...(before?.held ?? []));
    this.runLoop = new RunLoop(core, this);
    if (before) this.noticedMs = core.clock.now();
    this.reasons.push(reason);
  }

  start(): void {
    void this.loop();
  }

  stop(): void {
    this.isStopped = true;
    this.controller.abort(new Interrupted("stopped"));
    this.pulse();
  }

  /** A new epoch is due; `isUrgent` ends the operation that goes on. */
  notice(reason: string, isUrgent: boolean): void {
    if (this.isStopped) return;
    if (!this.reasons.includes(reason)) this.reasons.push(reason);
    if (isUrgent) {
      this.noticedMs ??= this.core.clock.now();
      this.controller.abort(new Interrupted(reason));
    }
    this.pulse();
  }

  /** A run has been given to the core: begin. @returns its figures, kept up to date */
  begin(answer: Answer): PeerGenerateStatistics {
    this.heldBefore = [];
    this.failures = 0;
    const { core } = this;
    const { promptLength } = answer.info;
    core.emit({ type: "run", promptTokens: promptLength, promptTail: core.tailOf(answer) });
    this.notice("A run begins.", false);
    return this.runLoop.figuresFor(answer).statistics;
  }

  /** Figures of a run that has not begun. */
  emptyStatistics(info: RunInfo): PeerGenerateStatistics {
    return new RunFigures(this.core, info).statistics;
  }

  /** Looks whether somebody may join, or has not answered for too long. */
  look(): void {
    if (this.isStopped) return;
    for (const { id } of this.ranks) {
      const incarnation = this.core.members.get(id)?.status?.incarnation ?? 0;
      if (incarnation <= (this.incarnations.get(id) ?? incarnation) || this.excluded.has(id)) continue;
      this.excluded.add(id);
      this.notice(`${this.core.nameOf(id)} began anew.`, true);
    }
    if (this.core.epoch?.held && this.newcomers(this.ranks).length > 0)
      this.notice(
        `${this.newcomers(this.ranks)
          .map(({ id }) => this.core.nameOf(id))
          .join(", ")} joins.`,
        false,
      );
    this.directWeights();
    this.pulse();
  }

  admit(id: string): void {
    const { core } = this;
    const member = core.members.get(id);
    if (!member || member.goneReason !== undefined) return;
    this.asking.delete(id);
    const isNew = !member.isAdmitted;
    member.isAdmitted = true;
    if (core.model) core.send(id, { type: "admit", model: core.model });
    if (isNew) core.emit({ type: "joined", peerId: id, name: core.nameOf(id) });
  }

  /** Sends someone away, for good. */
  remove(id: string, reason: string): void {
    const { core } = this;
    const member = core.members.get(id);
    if (!member) return;
    core.send(id, { type: member.isAdmitted ? "removed" : "refuse", reason });
    member.isAdmitted = false;
    core.members.ban(id);
    core.options.onBan(id);
    core.members.gone(member, `sent away: ${reason}`);
  }

  memberLost(member: Member, reason: string): void {
    this.asking.delete(member.id);
    if (this.ranks.some(({ id }) => id === member.id))
      this.notice(`${this.core.nameOf(member.id)} is gone (${reason}).`, true);
  }

  /** Someone is in a later epoch than mine. */
  stale(member: Member, epoch: number): void {
    if (epoch <= this.core.acceptedEpoch || this.isStopped) return;
    const leaderId = member.status?.leaderId;
    const other = leaderId === undefined ? undefined : this.core.members.get(leaderId);
    if (other?.isReachable && other.status?.leaderId === other.id && other.status.epoch > this.core.acceptedEpoch) {
      this.core.becomeFresh(`${this.core.nameOf(other.id)} leads a later epoch`);
      return;
    }
    this.notice(`${this.core.nameOf(member.id)} was in a later epoch.`, true);
  }

  receive(member: Member, message: PeerMessage): void {
    const { core } = this;
    const { epoch } = core;
    const isRank = this.ranks.some(({ id }) => id === member.id);
    if (message.type === "ask") {
      this.asked(member);
      return;
    }
    if (!isRank || !epoch) return;
    switch (message.type) {
      case "present":
        if (message.epoch === epoch.number) this.presents.set(member.id, message);
        this.pulse();
        return;
      case "done":
        if (message.epoch === epoch.number) this.runLoop.done(member.id, message);
        this.pulse();
        return;
      case "failed":
        if (message.epoch === epoch.number) this.failed(core.nameOf(member.id), message.why, message.message);
        return;
      case "lost":
        this.pairLost(member.id, message.peerId);
        return;
      case "stop":
        this.finish({ stopReason: "aborted", message: `${core.nameOf(member.id)} stopped the run.` });
        return;
    }
  }

  /** Ends the run, here and everywhere. */
  finish(end: RunEnd): void {
    const { core } = this;
    const { answer } = core;
    if (!answer || answer.end) return;
    this.tellEnd(answer, end);
    this.heldBefore = [];
    this.runLoop.figuresFor(answer).update(end.stopReason === "failed" ? undefined : end.stopReason);
    core.endRun(end);
    this.controller.abort(new Interrupted("the run is over"));
    this.controller = new AbortController();
    this.runLoop.ended();
    this.pulse();
  }

  private tellEnd(answer: Answer, { stopReason, message }: RunEnd): void {
    const start = Math.max(0, answer.ids.length - 64);
    const ids = answer.ids.slice(start);
    this.core.sendToRanks({
      type: "end",
      run: answer.info.id,
      start,
      ids,
      stopReason,
      message: message.slice(0, 2000),
    });
  }

  /** Resolves once `condition` holds; looked at whenever anything happens. @throws what ends the operation */
  async until(condition: () => boolean, signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if (condition()) return;
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    }
  }

  /** An operation has been done: failures before it are forgiven. */
  progressed(): void {
    this.failures = 0;
    this.heldBefore = unionOf(...(this.core.epoch?.held ?? []));
  }

  private pulse(): void {
    const { waiting } = this;
    this.waiting = [];
    for (const resolve of waiting) resolve();
  }

  private async loop(): Promise<void> {
    while (!this.isStopped) {
      try {
        const { answer, epoch } = this.core;
        if (this.reasons.length > 0) await this.openEpoch();
        else if (answer && !answer.end && epoch?.held) await this.runLoop.step(answer, epoch, this.controller.signal);
        else await this.until(() => this.reasons.length > 0, this.controller.signal);
      } catch (error) {
        if (this.isStopped) return;
        if (error instanceof Interrupted || this.reasons.length > 0 || this.core.answer?.end) {
          if (this.reasons.length === 0 && this.controller.signal.aborted) this.controller = new AbortController();
          continue;
        }
        this.failed(this.core.options.name, causeOf(error), sentenceOf(error), error);
      }
    }
  }

  /** A rank could not do its part: try again in a new epoch, and not for ever. */
  private failed(name: string, why: PeerMessage<"failed">["why"], message: string, error?: unknown): void {
    const { core } = this;
    if (this.reasons.length > 0 && this.controller.signal.aborted) return;
    if (error instanceof PeerError) {
      this.finish({ stopReason: "failed", message, error });
      return;
    }
    if (why === "memory" && name === core.options.name)
      core.capacityTokens = tokenCount(core.engine.open?.rank.held ?? []);
    // A link or a device that failed says so by itself soon; everything else may fail the same way again.
    if (why === "other" || why === "memory") this.failures++;
    if (this.failures >= MOST_FAILURES) {
      this.finish({
        stopReason: "failed",
        message: `${name} could not do its part of the run: ${message}`,
        error: new PeerError(`generate: expected every rank to do its part, got a failure of ${name}: ${message}`),
      });
      return;
    }
    this.notice(`${name} could not do its part: ${message}`, true);
  }

  private asked(member: Member): void {
    const { core } = this;
    if (!core.model) return;
    if (core.admitAll || member.isAdmitted) {
      this.admit(member.id);
      return;
    }
    if (this.asking.has(member.id)) return;
    this.asking.add(member.id);
    core.emit({
      type: "asks",
      peerId: member.id,
      name: core.nameOf(member.id),
      adapterName: member.hello?.adapterName ?? "",
    });
  }

  /** Who has no model yet gets it from those who have. */
  private directWeights(): void {
    const { members, model, weights } = this.core;
    const admitted = members.reachable.filter(({ isAdmitted }) => isAdmitted);
    weights.direct({
      loading: admitted.filter(({ status }) => status?.state === "loading").map(({ id }) => id),
      ready: admitted.filter(({ status }) => status?.fingerprint === model?.fingerprint).map(({ id }) => id),
    });
  }

  /** Two ranks do not hear each other, and I hear both: the one that came later has to go until they do. */
  private pairLost(one: string, other: string): void {
    const at = (id: string) => this.ranks.findIndex((seat) => seat.id === id);
    const later = this.ranks[Math.max(at(one), at(other))];
    if (at(one) < 0 || at(other) < 0 || !later || later.id === this.core.id) return;
    if (!this.core.members.isReachable(one) || !this.core.members.isReachable(other)) return;
    this.excluded.add(later.id);
    this.notice(`${this.core.nameOf(one)} and ${this.core.nameOf(other)} no longer hear each other.`, true);
  }

  /** Peers that may be ranks of the next epoch and are not yet. */
  private newcomers(ranks: readonly Seat[]): Member[] {
    const { core } = this;
    if (!core.engine.open || !core.model) return [];
    return core.members.reachable.filter(
      ({ id, status, isAdmitted, isSuspected }) =>
        isAdmitted &&
        !isSuspected &&
        status?.state === "ready" &&
        status.fingerprint === core.model!.fingerprint &&
        !ranks.some((rank) => rank.id === id) &&
        ranks.every((rank) => rank.id === core.id || status.linked.includes(rank.id)),
    );
  }

  /** @throws Interrupted when something happens before it is open. */
  private async openEpoch(): Promise<void> {
    const { core } = this;
    const reason = this.reasons.join(" ").slice(0, 2000);
    this.reasons = [];
    this.controller = new AbortController();
    const { signal } = this.controller;
    const { epoch, ranks } = this.enter(reason);
    core.sendToRanks({
      type: "rollCall",
      epoch: epoch.number,
      ranks: [...ranks],
      reason,
      ...(core.answer && { run: core.answer.info }),
      isOver: core.answer?.end !== undefined,
      textLength: core.answer?.ids.length ?? 0,
    });
    const others = ranks.filter(({ id }) => id !== core.id);
    let own: readonly TokenRange[] = [];
    if (core.engine.isStarted)
      own = await core.work.run(async (rank, workSignal) => {
        if (!core.answer || core.answer.end) await rank.drop();
        else await core.replicas.takeOver(rank, epoch, core.capacityTokens, workSignal);
        return rank.held;
      });
    const sinceMs = core.clock.now();
    await this.until(() => {
      for (const { id } of others) if (!this.presents.has(id)) this.giveUpOn(id, sinceMs);
      return others.every(({ id }) => this.presents.has(id));
    }, signal);
    for (const { id } of others) for (const missing of this.presents.get(id)!.unreachable) this.pairLost(id, missing);
    signal.throwIfAborted();
    const { answer } = core;
    const presents = others.map(({ id }) => this.presents.get(id)!);
    if (answer) this.shareText(answer, others, presents);
    if (answer && !answer.hasPrompt && !answer.end)
      this.finish({
        stopReason: "failed",
        message: "Whoever asked has gone before the others had the whole question.",
        error: new PeerError("generate: expected the whole prompt with those who are left, got a part of it"),
      });
    signal.throwIfAborted();
    epoch.held = this.countOnce([own, ...presents.map(({ held }) => held)], answer);
    core.sendToRanks({ type: "begin", epoch: epoch.number, held: epoch.held });
    if (answer?.end) this.tellEnd(answer, answer.end);
    const surplus = differenceOf(own, epoch.held[0]!);
    if (surplus.length > 0) await core.work.run((rank) => rank.drop(surplus));
    if (answer && !answer.end && answer.info.replicas > 0) core.replicas.opened(epoch);
    if (core.stage !== "loading") core.stage = core.engine.open ? "working" : "loading";
    const lost = answer && !answer.end ? differenceOf(this.heldBefore, ...epoch.held) : [];
    this.runLoop.opened(
      new Map([
        [core.id, core.capacityTokens],
        ...others.map(({ id }, i) => [id, presents[i]!.capacityTokens] as const),
      ]),
      lost,
      this.noticedMs,
    );
    this.noticedMs = undefined;
    const names = ranks.map(({ id }) => id);
    core.emit({ type: "epoch", epoch: epoch.number, leaderId: core.id, ranks: names, message: reason });
    core.tellStatus();
    core.touch();
  }

  /** Who is a rank of the next epoch; tells those who are not any more. */
  private enter(reason: string): { epoch: Epoch; ranks: readonly Seat[] } {
    const { core } = this;
    const before = this.ranks;
    const ranks = before.filter(({ id }) => id === core.id || (core.members.isReachable(id) && !this.excluded.has(id)));
    for (const member of this.newcomers(ranks)) {
      const seat = freeSeat(ranks);
      if (seat === undefined) break;
      if (this.newcomers(ranks).some(({ id }) => id === member.id)) ranks.push({ id: member.id, seat });
    }
    this.excluded.clear();
    this.ranks = ranks;
    this.presents.clear();
    this.incarnations.clear();
    for (const { id } of ranks) this.incarnations.set(id, core.members.get(id)?.status?.incarnation ?? 0);
    const number = epochNumber(epochCounter(core.highestEpoch) + 1, ranks[0]!.seat);
    core.enterEpoch({ number, leaderId: core.id, ranks, rank: 0, reason, held: undefined });
    for (const { id } of before)
      if (!ranks.some((rank) => rank.id === id))
        core.send(id, {
          type: "dropped",
          epoch: number,
          reason: `The ring went on without you: ${reason}`.slice(0, 2000),
        });
    return { epoch: core.epoch!, ranks };
  }

  private giveUpOn(id: string, sinceMs: number): void {
    const { core } = this;
    const isLoading = core.members.get(id)?.status?.state === "loading";
    if (isLoading || core.clock.now() - sinceMs < PRESENT_MS || this.excluded.has(id)) return;
    this.excluded.add(id);
    this.notice(`${core.nameOf(id)} did not answer the roll call.`, true);
  }

  /** Everyone gets the ids that it lacks; whoever has more than I do (the leader before me was ahead) gives them to me. */
  private shareText(answer: Answer, others: readonly Seat[], presents: readonly PeerMessage<"present">[]): void {
    const { core } = this;
    const length = answer.ids.length;
    const longest = presents.reduce<readonly number[]>(
      (most, { tail }) => (tail.length > most.length ? tail : most),
      [],
    );
    answer.extend(length, longest);
    for (const [i, { id }] of others.entries()) {
      // A run that is over is told to those only who were there.
      if (answer.end && !presents[i]!.isKnown) continue;
      for (let start = presents[i]!.textLength; start < answer.ids.length; start += TEXT_CHUNK)
        core.send(id, { type: "text", run: answer.info.id, start, ids: answer.ids.slice(start, start + TEXT_CHUNK) });
    }
  }

  /** What each rank is to hold of what it has: positions of the text only, each on one rank, within its memory. */
  private countOnce(all: readonly (readonly TokenRange[])[], answer: Answer | undefined): TokenRange[][] {
    // The last token's K/V come with its decoding, and whoever kept them of one that came to nothing must not count twice.
    const count = answer && !answer.end ? answer.ids.length - 1 : 0;
    const text = [{ start: 0, stride: 1, count }];
    const seen: TokenRange[][] = [];
    for (const held of all) seen.push(differenceOf(intersectionOf(held, text), ...seen));
    return seen;
  }
}
