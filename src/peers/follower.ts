/** What a peer does at its leader's word: lets itself be let in, answers roll calls, runs operations, strictly in order. */
import { DeviceLostError, GpuMemoryError, LinkError, PeerError } from "../errors.ts";
import type { RankStep } from "../ring/rank-types.ts";
import { tokenCount } from "../ring/shard.ts";
import type { Answer } from "./answer.ts";
import type { PeerCore } from "./core.ts";
import { differenceOf, unionOf } from "./holdings.ts";
import type { Member } from "./members.ts";
import { type PeerMessage, TEXT_CHUNK } from "./messages.ts";
import { answerOp } from "./op-decode.ts";
import { forwardOp } from "./op-forward.ts";
import { afterMove, moveOp } from "./op-move.ts";

/** Ring steps go to those who watch at most so often. */
const STEPS_MS = 100;

/** Why an operation failed, in one of four words. */
export function causeOf(error: unknown): PeerMessage<"failed">["why"] {
  if (error instanceof LinkError) return "link";
  if (error instanceof GpuMemoryError) return "memory";
  if (error instanceof DeviceLostError) return "device";
  return "other";
}

/** A failure as a sentence of bounded length. */
export const sentenceOf = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).slice(0, 2000);

/** See the module's comment. */
export class Follower {
  private stepsSentMs = Number.NEGATIVE_INFINITY;

  constructor(private readonly core: PeerCore) {}

  receive(member: Member, message: PeerMessage): void {
    const { core } = this;
    const isLeader = core.epoch?.leaderId === member.id && !core.leading;
    switch (message.type) {
      case "admit":
        this.admitted(member, message);
        return;
      case "refuse":
      case "removed":
        if (member.id === core.leaderId && !core.leading) this.turnedAway(member, message.reason);
        return;
      case "rollCall":
        this.rollCall(member, message);
        return;
      case "dropped":
        core.highestEpoch = Math.max(core.highestEpoch, message.epoch);
        if (isLeader && message.epoch > core.acceptedEpoch) core.becomeFresh(message.reason);
        return;
      case "steps":
        core.emit({ ...message, rank: message.steps[0]?.rank ?? 0 });
        return;
    }
    if (!isLeader) return;
    switch (message.type) {
      case "text":
        if (core.answer?.info.id === message.run) this.text(core.answer, message);
        return;
      case "begin":
        this.begin(message);
        return;
      case "forward":
        this.forward(message);
        return;
      case "decode":
        this.decode(message);
        return;
      case "move":
        this.move(message);
        return;
      case "end": {
        const { answer } = core;
        if (answer?.info.id !== message.run) return;
        answer.extend(message.start, message.ids);
        const { stopReason, message: sentence } = message;
        core.endRun(
          stopReason === "failed"
            ? { stopReason, message: sentence, error: new PeerError(sentence) }
            : { stopReason, message: sentence },
        );
        return;
      }
      case "prefill":
      case "recovering":
      case "recovered":
        core.emit(message);
        return;
    }
  }

  private text(answer: Answer, { start, ids }: PeerMessage<"text">): void {
    const hadPrompt = answer.hasPrompt;
    const { promptLength } = answer.info;
    // The prompt first, so that its end is told before the first piece.
    answer.extend(start, ids.slice(0, Math.max(0, promptLength - start)));
    if (!hadPrompt && answer.hasPrompt)
      this.core.emit({ type: "run", promptTokens: promptLength, promptTail: this.core.tailOf(answer) });
    answer.extend(start, ids);
  }

  /** Tells everyone of ring steps, the last ones of many. */
  shareSteps(layer: number, layerCount: number, steps: readonly RankStep[]): void {
    const { core } = this;
    if (steps.length === 0) return;
    core.emit({ type: "steps", rank: steps[0]!.rank, layer, layerCount, steps });
    const now = core.clock.now();
    if (now - this.stepsSentMs < STEPS_MS) return;
    this.stepsSentMs = now;
    core.sendToRanks({ type: "steps", layer, layerCount, steps: [...steps] });
  }

  private admitted(member: Member, { model }: PeerMessage<"admit">): void {
    const { core } = this;
    if (core.epoch || core.leading || member.id !== core.leaderId) return;
    core.admittedBy = member.id;
    member.isAdmitted = true;
    if (core.model && core.model.fingerprint !== model.fingerprint) {
      core.close(`it has another model (${core.model.name}) than the ring (${model.name})`);
      return;
    }
    core.stage = core.engine.open ? "ready" : "loading";
    core.engine.start(model);
    core.tellStatus();
    core.touch();
  }

  private turnedAway(member: Member, reason: string): void {
    const { core } = this;
    const message = `${core.nameOf(member.id)} says no: ${reason}`;
    core.emit({ type: "end", stopReason: "failed", message });
    core.close(message, new PeerError(`peer: expected to be let in, got turned away: ${reason}`));
  }

  private rollCall(member: Member, message: PeerMessage<"rollCall">): void {
    const { core } = this;
    const mayLead =
      core.epoch?.ranks.some(({ id }) => id === member.id) === true ||
      core.admittedBy === member.id ||
      member.isAdmitted;
    const rank = message.ranks.findIndex(({ id }) => id === core.id);
    const ids = new Set(message.ranks.map(({ id }) => id));
    if (!mayLead || rank < 1 || message.ranks[0]?.id !== member.id || ids.size !== message.ranks.length) return;
    if (message.epoch <= core.acceptedEpoch) {
      core.send(member.id, { type: "stale", epoch: Math.max(core.acceptedEpoch, core.highestEpoch) });
      return;
    }
    if (!core.engine.isStarted) return;
    core.leading?.stop();
    core.leading = undefined;
    const isNewLeader = core.epoch !== undefined && core.leaderId !== member.id;
    const isKnown = message.run !== undefined && message.run.id === core.answer?.info.id;
    const info = message.isOver && !isKnown ? undefined : message.run;
    const { epoch: number, ranks, reason } = message;
    core.enterEpoch({ number, leaderId: member.id, ranks, rank, reason, held: undefined });
    core.admittedBy = member.id;
    if (core.engine.open) core.stage = "working";
    if (isNewLeader)
      core.emit({
        type: "leader",
        peerId: member.id,
        isSelf: false,
        message: `${reason} ${core.nameOf(member.id)} leads now.`,
      });
    core.emit({ type: "epoch", epoch: number, leaderId: member.id, ranks: ranks.map(({ id }) => id), message: reason });
    const answer = core.setRun(info);
    if (answer?.end?.stopReason === "aborted") core.send(member.id, { type: "stop" });
    const epoch = core.epoch!;
    void core.work
      .run(async (run, signal) => {
        if (!isKnown || message.isOver) await run.drop();
        else await core.replicas.takeOver(run, epoch, core.capacityTokens, signal);
        return run.held;
      })
      .then(
        (held) => {
          if (core.epoch !== epoch) return;
          core.stage = "working";
          core.send(member.id, {
            type: "present",
            epoch: number,
            held: [...held],
            capacityTokens: core.capacityTokens,
            isKnown,
            textLength: answer?.ids.length ?? 0,
            tail: answer?.ids.slice(message.textLength, message.textLength + TEXT_CHUNK) ?? [],
            unreachable: ranks.map(({ id }) => id).filter((id) => id !== core.id && !core.members.isReachable(id)),
          });
          core.tellStatus();
        },
        (error) => this.fail(epoch.number, 0, error),
      );
  }

  private begin({ epoch: number, held }: PeerMessage<"begin">): void {
    const { core } = this;
    const { epoch, answer } = core;
    if (!epoch || epoch.number !== number || held.length !== epoch.ranks.length) return;
    epoch.held = held;
    const own = held[epoch.rank]!;
    void core.work
      .run(async (run) => {
        // What others hold too counts once: here, or there.
        const surplus = differenceOf(run.held, own);
        if (surplus.length > 0) await run.drop(surplus);
      })
      .catch((error) => this.fail(number, 0, error));
    if (answer && !answer.end && answer.info.replicas > 0) core.replicas.opened(epoch);
    core.touch();
  }

  private forward(message: PeerMessage<"forward">): void {
    const { core } = this;
    const { epoch, answer } = core;
    if (!epoch || epoch.number !== message.epoch || !answer) return;
    core.replicas.expect(message.tokens);
    void core.work
      .run((run, signal) =>
        forwardOp(
          core.placeOf(epoch, run, signal),
          message,
          answer,
          () => core.clock.now(),
          (layer, layerCount, steps) => this.shareSteps(layer, layerCount, steps),
        ),
      )
      .then(
        (figures) => {
          if (core.epoch !== epoch) return;
          epoch.held = epoch.held?.map((held, rank) => unionOf(held, message.tokens[rank]!));
          core.replicas.look();
          const { computeMs, multiplyAdds } = figures;
          if (computeMs > 1 && multiplyAdds > 0) core.multiplyAddsPerSecond = (multiplyAdds / computeMs) * 1000;
          core.send(epoch.leaderId, { type: "done", epoch: epoch.number, op: message.op, figures });
          core.touch();
        },
        (error) => this.fail(message.epoch, message.op, error),
      );
  }

  private decode(message: PeerMessage<"decode">): void {
    const { core } = this;
    const { epoch, answer } = core;
    if (!epoch || epoch.number !== message.epoch || !answer) return;
    if (!answer.extend(message.position, [message.id]) || message.keeper >= epoch.ranks.length) {
      this.fail(message.epoch, message.op, new PeerError("decode: expected the text before the token, got a gap"));
      return;
    }
    void core.work
      .run((run, signal) => answerOp(core.placeOf(epoch, run, signal), message))
      .then(
        () => {
          if (core.epoch !== epoch) return;
          const { keeper, position } = message;
          epoch.held = epoch.held?.map((held, rank) =>
            rank === keeper ? unionOf(held, [{ start: position, stride: 1, count: 1 }]) : held,
          );
          core.replicas.look();
        },
        (error) => this.fail(message.epoch, message.op, error),
      );
  }

  private move(message: PeerMessage<"move">): void {
    const { core } = this;
    const { epoch } = core;
    if (!epoch || epoch.number !== message.epoch) return;
    void core.work
      .run((run, signal) => moveOp(core.placeOf(epoch, run, signal), message, () => core.clock.now()))
      .then(
        (figures) => {
          if (core.epoch !== epoch) return;
          epoch.held = epoch.held && afterMove(epoch.held, message);
          core.replicas.moved();
          core.send(epoch.leaderId, { type: "done", epoch: epoch.number, op: message.op, figures });
          core.touch();
        },
        (error) => this.fail(message.epoch, message.op, error),
      );
  }

  /** Tells the leader of a failure, unless the epoch is over anyway. */
  private fail(number: number, op: number, error: unknown): void {
    const { core } = this;
    const { epoch } = core;
    if (!epoch || epoch.number !== number || core.leading || core.closedReason !== undefined) return;
    const why = causeOf(error);
    // What is there is all that fits.
    if (why === "memory") core.capacityTokens = tokenCount(core.engine.open?.rank.held ?? []);
    core.send(epoch.leaderId, { type: "failed", epoch: number, op, why, message: sentenceOf(error) });
  }
}
