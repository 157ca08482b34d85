/** Faults that a peer does to itself, for the fault suite: put between its links and their wires, and around its GPU. */
import type { SelfFault } from "../../src/cli/peer-job.ts";
import type { Wire } from "../../src/index.ts";
import { type FaultOptions, faulty } from "../../src/link/fault.ts";

/** Of a slow peer's links, undivided by the factor. */
const FAST_BYTES_PER_MS = 40_000;
const FAST_LATENCY_MS = 1;

const delay = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

/** A wire that can fall silent, be slow, or spoil what it sends, from one moment to the next. */
class FaultGate implements Wire {
  readonly kind: Wire["kind"];
  readonly maxMessageBytes: number;
  onMessage: Wire["onMessage"];
  onClose: Wire["onClose"];
  /** Read anew with every message, so that faults may be added. */
  private readonly faults: FaultOptions["faults"][number][] = [];
  private readonly inner: Wire;
  private sentCount = 0;
  private slow: Promise<void> | undefined;

  constructor(
    wire: Wire,
    private readonly state: Faults,
  ) {
    this.inner = faulty(wire, { faults: this.faults, onFault: () => state.faultCount++ });
    this.kind = wire.kind;
    this.maxMessageBytes = wire.maxMessageBytes;
    this.inner.onClose = (reason) => this.onClose?.(reason);
    this.inner.onMessage = (message) => {
      if (state.isSilent) state.faultCount++;
      else this.onMessage?.(message);
    };
  }

  get bufferedBytes(): number {
    return this.inner.bufferedBytes;
  }

  get highWaterBytes(): number | undefined {
    return this.inner.highWaterBytes;
  }

  /** What is sent from now on: every third message, until so many were spoilt. */
  spoil(kind: FaultOptions["faults"][number]["kind"], count: number): void {
    for (let i = 0; i < count; i++) this.faults.push({ kind, at: this.sentCount + 3 * i });
  }

  send(message: Uint8Array<ArrayBuffer>): void {
    if (this.state.isSilent) return;
    const { slowFactor } = this.state;
    if (slowFactor <= 1 && !this.slow) {
      this.pass(message);
      return;
    }
    // One after the other; the buffer is the sender's again once `send` returns.
    const copy = message.slice();
    const waitMs = slowFactor * (FAST_LATENCY_MS + copy.byteLength / FAST_BYTES_PER_MS);
    const turn = (this.slow ?? Promise.resolve())
      .then(() => delay(waitMs))
      .then(() => this.pass(copy))
      .catch(() => {}) // closed meanwhile: its link knows
      .then(() => {
        if (this.slow === turn) this.slow = undefined;
      });
    this.slow = turn;
  }

  drained(): Promise<void> {
    return this.inner.drained();
  }

  close(): void {
    this.state.gates.delete(this);
    this.inner.close();
  }

  private pass(message: Uint8Array<ArrayBuffer>): void {
    this.sentCount++;
    this.inner.send(message);
  }
}

/** All faults of one peer. */
export class Faults {
  readonly gates = new Set<FaultGate>();
  isSilent = false;
  slowFactor = 1;
  /** Messages that were spoilt or swallowed. */
  faultCount = 0;

  constructor() {
    this.slowGpu();
  }

  /** To be put between a link and its wire. */
  wrap(wire: Wire): Wire {
    const gate = new FaultGate(wire, this);
    this.gates.add(gate);
    return gate;
  }

  do(fault: SelfFault, device: GPUDevice | undefined): void {
    switch (fault.kind) {
      case "device":
        device?.destroy();
        return;
      case "silence":
        this.isSilent = true;
        setTimeout(() => (this.isSilent = false), fault.milliseconds);
        return;
      case "slow":
        this.slowFactor = fault.factor;
        setTimeout(() => (this.slowFactor = 1), fault.milliseconds);
        return;
      case "frames":
        for (const gate of this.gates) gate.spoil(fault.how, fault.count);
        return;
    }
  }

  /** The GPU's results come so many times later. */
  private slowGpu(): void {
    const stretched = async (work: Promise<undefined>): Promise<undefined> => {
      const startMs = performance.now();
      await work;
      if (this.slowFactor > 1) await delay((performance.now() - startMs) * (this.slowFactor - 1));
      return undefined;
    };
    const { mapAsync } = GPUBuffer.prototype;
    GPUBuffer.prototype.mapAsync = function (...args) {
      return stretched(mapAsync.apply(this, args));
    };
    const { onSubmittedWorkDone } = GPUQueue.prototype;
    GPUQueue.prototype.onSubmittedWorkDone = function () {
      return stretched(onSubmittedWorkDone.call(this));
    };
  }
}
