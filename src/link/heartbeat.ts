/** Heartbeats: one every 200 ms, echoed at once, which gives the round trip. Never waits for anything. */
import { FRAME, type Frame, type FrameFields } from "./frame.ts";

const SMOOTHING = 0.3;
/** Beats whose echo may still come. */
const REMEMBERED = 32;

/** See the module's comment. */
export class Heartbeat {
  static readonly INTERVAL_MS = 200;
  roundTripMs: number | undefined;
  private nextStamp = 1;
  private readonly sentMs = new Map<number, number>();

  constructor(private readonly host: { now(): number; transmit(fields: FrameFields): void }) {}

  beat(): void {
    const stamp = this.nextStamp++;
    this.sentMs.set(stamp, this.host.now());
    this.sentMs.delete(stamp - REMEMBERED);
    this.host.transmit({ type: FRAME.heartbeat, transfer: stamp });
  }

  onBeat(frame: Frame): void {
    this.host.transmit({ type: FRAME.echo, transfer: frame.transfer });
  }

  /** An echo of what was never sent, or a second one, tells nothing. */
  onEcho(frame: Frame): void {
    const sentMs = this.sentMs.get(frame.transfer);
    if (sentMs === undefined) return;
    this.sentMs.delete(frame.transfer);
    const latest = this.host.now() - sentMs;
    this.roundTripMs =
      this.roundTripMs === undefined ? latest : this.roundTripMs + SMOOTHING * (latest - this.roundTripMs);
  }
}
