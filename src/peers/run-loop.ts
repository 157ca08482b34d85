/** What a run does next, operation after operation: compute the tokens that nobody holds, else decode the next one. */
import { PeerError } from "../errors.ts";
import { type ChunkTime, estimateSecondsLeft } from "../model/statistics.ts";
import { createHostPicker, type HostPicker } from "../model/token-picker.ts";
import { chooseRotation } from "../ring/overlap.ts";
import { tokenCount } from "../ring/shard.ts";
import type { TokenRange } from "../ring/types.ts";
import type { Answer } from "./answer.ts";
import type { PeerCore } from "./core.ts";
import type { Epoch } from "./epoch.ts";
import { differenceOf, missingFrom, unionOf } from "./holdings.ts";
import type { Leader } from "./leader.ts";
import type { OpFigures, PeerMessage } from "./messages.ts";
import { decodeExchange } from "./op-decode.ts";
import { forwardOp } from "./op-forward.ts";
import { afterMove, moveOp, planJoinMoves } from "./op-move.ts";
import { planKeeper, planNextOp, type TokenMove } from "./plan.ts";
import { RunFigures } from "./run-figures.ts";

/** Tokens that went with a peer, and since when they are being computed again. */
interface Recovery {
  tokens: TokenRange[];
  total: number;
  sinceMs: number;
}

/** See the module's comment. */
export class RunLoop {
  /** Of the run that goes on, or went on last. */
  figures: RunFigures | undefined;
  private figuresOf: string | undefined;
  private op = 0;
  private readonly dones = new Map<string, OpFigures>();
  /** Tokens that each rank's memory suffices for, by peer. */
  private capacities: ReadonlyMap<string, number> = new Map();
  private picker: { run: string; picker: HostPicker } | undefined;
  private chunks: ChunkTime[] = [];
  private prefillStartMs: number | undefined;
  private recovery: Recovery | undefined;
  /** Committed tokens that are still to go to those who came. */
  private moves: TokenMove[] = [];
  private hasMovedLast = false;

  constructor(
    private readonly core: PeerCore,
    private readonly leader: Leader,
  ) {}

  /** An epoch is open: who can hold how much, and what went since the one before. */
  opened(capacities: ReadonlyMap<string, number>, lost: readonly TokenRange[], noticedMs: number | undefined): void {
    const { core } = this;
    this.op = 0;
    this.moves = [];
    this.capacities = capacities;
    const { answer } = core;
    if (!answer || answer.end) return;
    this.figuresFor(answer).epoch();
    this.planMoves(core.epoch!);
    const tokens = unionOf(lost, this.recovery ? differenceOf(this.recovery.tokens, ...core.epoch!.held!) : []);
    if (tokens.length === 0) {
      this.recovery = undefined;
      return;
    }
    const sinceMs = this.recovery?.sinceMs ?? noticedMs ?? core.clock.now();
    this.recovery = { tokens, total: tokenCount(tokens), sinceMs };
    this.tellRecovering(0);
  }

  /** The run is over. */
  ended(): void {
    this.recovery = undefined;
    this.moves = [];
    this.picker = undefined;
    this.prefillStartMs = undefined;
    this.chunks = [];
  }

  done(peerId: string, { op, figures }: PeerMessage<"done">): void {
    if (op === this.op) this.dones.set(peerId, figures);
  }

  /** Where the figures of a run are kept. */
  figuresFor(answer: Answer): RunFigures {
    if (!this.figures || this.figuresOf !== answer.info.id) {
      this.figures = new RunFigures(this.core, answer.info);
      this.figuresOf = answer.info.id;
    }
    return this.figures;
  }

  /**
   * The next operation of the run, or its end.
   * @throws what ends the operation. @throws {PeerError} where the memory of all peers does not suffice.
   */
  async step(answer: Answer, epoch: Epoch, signal: AbortSignal): Promise<void> {
    const { info, ids } = answer;
    const held = epoch.held!;
    const wanted = ids.length - 1;
    const isMissing = held.reduce((sum, ranges) => sum + tokenCount(ranges), 0) < wanted;
    const { completion } = answer;
    if (completion && !(isMissing && info.maxNewTokens === 0)) {
      this.leader.finish({
        stopReason: completion,
        message: `The answer has ${ids.length - info.promptLength} tokens.`,
      });
      return;
    }
    signal.throwIfAborted();
    // Moves and the run's own operations take turns; what was lost with a peer comes first.
    const move = this.recovery || this.hasMovedLast ? undefined : this.moves.shift();
    this.hasMovedLast = move !== undefined;
    if (move) await this.move(move, epoch, signal);
    else if (isMissing) await this.forward(answer, epoch, missingFrom(wanted, held), signal);
    else await this.decode(answer, epoch, wanted, signal);
    this.leader.progressed();
    this.core.touch();
  }

  /** Whoever came holding nothing gets its share of what is held. */
  private planMoves(epoch: Epoch): void {
    const { engine } = this.core;
    const rank = engine.open?.rank;
    if (!rank || epoch.ranks.length < 2) return;
    const weights = this.leader.speeds.weightsOf(epoch.ranks.map(({ id }) => id));
    this.moves = planJoinMoves(epoch.held!, this.roomOf(epoch), weights, rank.kvBytesPerToken);
  }

  private async move({ from, to, ranges }: TokenMove, epoch: Epoch, signal: AbortSignal): Promise<void> {
    const { core, leader } = this;
    const op = ++this.op;
    this.dones.clear();
    const message: PeerMessage<"move"> = { type: "move", epoch: epoch.number, op, from, to, tokens: ranges };
    core.sendToRanks(message);
    const own = core.work.run((rank, workSignal) =>
      moveOp(core.placeOf(epoch, rank, AbortSignal.any([signal, workSignal])), message, () => core.clock.now()),
    );
    this.dones.set(core.id, await own);
    await leader.until(() => epoch.ranks.every(({ id }) => this.dones.has(id)), signal);
    epoch.held = afterMove(epoch.held!, message);
    core.replicas.moved();
  }

  /** Tokens that each rank can still take. */
  private roomOf(epoch: Epoch): number[] {
    return epoch.ranks.map(({ id }, rank) =>
      Math.max(0, (this.capacities.get(id) ?? 0) - tokenCount(epoch.held![rank]!)),
    );
  }

  private expectRoom(answer: Answer, epoch: Epoch, missing: number): number[] {
    const room = this.roomOf(epoch);
    const total = room.reduce((sum, tokens) => sum + tokens, 0);
    if (total >= missing) return room;
    const fits = epoch.ranks.reduce((sum, { id }) => sum + (this.capacities.get(id) ?? 0), 0);
    throw new PeerError(
      `generate: expected room for the ${answer.ids.length} tokens of this text on ${epoch.ranks.length} ${epoch.ranks.length === 1 ? "peer" : "peers"}, got room for ${fits}: add peers, let them offer more memory, or shorten the prompt`,
    );
  }

  private async forward(
    answer: Answer,
    epoch: Epoch,
    missing: readonly TokenRange[],
    signal: AbortSignal,
  ): Promise<void> {
    const { core, leader } = this;
    const { info } = answer;
    const worldSize = epoch.ranks.length;
    const room = this.expectRoom(answer, epoch, tokenCount(missing));
    const names = epoch.ranks.map(({ id }) => id);
    const weights = leader.speeds.weightsOf(names);
    const { shards } = planNextOp({
      tokens: missing,
      worldSize,
      layout: info.layout,
      weights,
      room,
      tokensPerRank: info.chunkTokens,
    });
    const held = epoch.held!.map((ranges, rank) => unionOf(ranges, shards[rank]!));
    const rank0 = core.engine.open?.rank;
    const counts = shards.map(tokenCount);
    const rotation =
      rank0 && worldSize > 1
        ? chooseRotation({
            shape: {
              heads: rank0.heads,
              kvHeads: rank0.kvHeads,
              headDim: rank0.headDim,
              bytesPerElement: info.wireDtype === "f16" ? 2 : 4,
            },
            queryTokens: counts,
            kvTokens: held.map(tokenCount),
          })
        : "keyValue";
    const op = ++this.op;
    this.dones.clear();
    const startMs = core.clock.now();
    this.prefillStartMs ??= startMs;
    const message: PeerMessage<"forward"> = {
      type: "forward",
      epoch: epoch.number,
      op,
      tokens: shards,
      rotation,
      ropeLength: info.promptLength,
    };
    core.sendToRanks(message);
    core.replicas.expect(message.tokens);
    const own = core.work.run((rank, workSignal) =>
      forwardOp(
        core.placeOf(epoch, rank, AbortSignal.any([signal, workSignal])),
        message,
        answer,
        () => core.clock.now(),
        (layer, layerCount, steps) => core.follower.shareSteps(layer, layerCount, steps),
      ),
    );
    this.dones.set(core.id, await own);
    await leader.until(() => names.every((id) => this.dones.has(id)), signal);
    epoch.held = held;
    core.replicas.look();
    const timeMs = core.clock.now() - startMs;
    const figures = this.figuresFor(answer);
    for (const [id, done] of this.dones) {
      figures.record(id, done);
      leader.speeds.record(id, done.multiplyAdds, done.computeMs);
    }
    core.multiplyAddsPerSecond = leader.speeds.speedOf(core.id);
    const isRecovery = this.recovery !== undefined;
    figures.forward(timeMs, rotation, counts, !isRecovery);
    if (isRecovery) this.lookAtRecovery(answer, epoch);
    else
      this.tellPrefill(
        answer,
        counts.reduce((sum, count) => sum + count, 0),
        timeMs,
        epoch,
      );
  }

  private async decode(answer: Answer, epoch: Epoch, position: number, signal: AbortSignal): Promise<void> {
    const { core } = this;
    const keeper = planKeeper(this.expectRoom(answer, epoch, 1));
    const op = ++this.op;
    const id = answer.ids[position]!;
    const message: PeerMessage<"decode"> = { type: "decode", epoch: epoch.number, op, position, id, keeper };
    const startMs = core.clock.now();
    core.sendToRanks(message);
    const logits = await core.work.run(async (rank, workSignal) => {
      const both = AbortSignal.any([signal, workSignal]);
      const place = core.placeOf(epoch, rank, both);
      return rank.lead(id, position, keeper === epoch.rank, decodeExchange(place, message), both);
    });
    signal.throwIfAborted();
    epoch.held = epoch.held!.map((ranges, rank) =>
      rank === keeper ? unionOf(ranges, [{ start: position, stride: 1, count: 1 }]) : ranges,
    );
    core.replicas.look();
    const next = this.pickerFor(answer).pick(logits);
    const count = answer.ids.length + 1 - answer.info.promptLength;
    const figures = this.figuresFor(answer);
    figures.token(answer.info.stopIds.includes(next) ? count - 1 : count, core.clock.now() - startMs);
    answer.extend(answer.ids.length, [next]);
  }

  /** The picker, with as many draws behind it as the answer has tokens, whoever picked them. */
  private pickerFor(answer: Answer): HostPicker {
    const { info } = answer;
    const drawn = answer.ids.length - info.promptLength;
    if (this.picker?.run !== info.id || this.picker.picker.draws !== drawn) {
      const { temperature, topP, topK, seed } = info;
      const picker = createHostPicker({ temperature, topP, topK, seed });
      picker.skip(drawn);
      this.picker = { run: info.id, picker };
    }
    return this.picker.picker;
  }

  // --- what is told ---

  private lookAtRecovery(answer: Answer, epoch: Epoch): void {
    const { core, recovery } = this;
    if (!recovery) return;
    const left = tokenCount(differenceOf(recovery.tokens, ...epoch.held!));
    if (left > 0) {
      this.tellRecovering(recovery.total - left);
      return;
    }
    this.recovery = undefined;
    const milliseconds = core.clock.now() - recovery.sinceMs;
    this.figuresFor(answer).recovered(recovery.total, milliseconds);
    const message = `${recovery.total.toLocaleString("en-US")} tokens were computed again in ${(milliseconds / 1000).toFixed(1)} s.`;
    const event = { type: "recovered" as const, tokens: recovery.total, milliseconds, message };
    core.emit(event);
    core.sendToRanks(event);
  }

  private tellRecovering(doneTokens: number): void {
    const { core, recovery } = this;
    if (!recovery) return;
    const message = `${recovery.total.toLocaleString("en-US")} tokens are computed again: their peer took them along.`;
    const event = { type: "recovering" as const, doneTokens, totalTokens: recovery.total, message };
    core.emit(event);
    core.sendToRanks(event);
  }

  private tellPrefill(answer: Answer, count: number, timeMs: number, epoch: Epoch): void {
    const { core } = this;
    const totalTokens = answer.info.promptLength;
    const held = epoch.held!.reduce((sum, ranges) => sum + tokenCount(ranges), 0);
    const doneTokens = Math.min(held, totalTokens);
    this.chunks.push({ start: held - count, count, seconds: timeMs / 1000 });
    const seconds = (core.clock.now() - this.prefillStartMs!) / 1000;
    const event = {
      type: "prefill" as const,
      doneTokens,
      totalTokens,
      tokensPerSecond: doneTokens / Math.max(seconds, 1e-6),
      secondsLeft: estimateSecondsLeft(this.chunks, totalTokens),
    };
    core.emit(event);
    core.sendToRanks(event);
  }
}
