/** A call that the tuner gives every candidate: seeded inputs on the GPU and on the host, and what of a result is right. */
import { allocateAll, read, release, STORAGE, write } from "../gpu/buffers.ts";
import { type AttentionCall, type AttentionPiece, describeCall, wholeCall } from "./attention-call.ts";
import type { AttentionEngine } from "./attention-engine.ts";
import type { ResolvedAttention } from "./attention-options.ts";
import type { AttentionWork } from "./candidates.ts";
import { type PlainCall, plainRow, rowStart } from "./plain-attention.ts";

/** Tokens of a call, and on how many K/V heads it runs (the kernels are compiled for all). */
export interface TrialSize {
  seqLen: number;
  kvSeqLen: number;
  kvHeads: number;
}

/** What a candidate answered, on the host: output by the options' layout, lse `[H, T]`. */
export interface TrialResult {
  output: Float32Array;
  lse: Float32Array;
}

/**
 * How far a result may be from the float64 one. Values lie in (-1, 1), scores within about +-20: kernels with f32 sums are
 * within 1e-5, one of 4000 keys left out is not.
 */
const TOLERANCE = { f32: 1e-4, f16: 2e-3 } as const;
const LSE_TOLERANCE = 1e-3;

/** Numbers from -256 to 255, the same for the same seed: as multiples of 1/256 they are exact in f16 too. */
function randomIntegers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return (state >>> 23) - 256;
  };
}

/** f16 bits of n / 256, |n| at most 256. */
function halfBits(n: number): number {
  if (n === 0) return 0;
  const exponent = Math.floor(Math.log2(Math.abs(n)));
  return (n < 0 ? 0x8000 : 0) | ((exponent + 7) << 10) | ((Math.abs(n) / 2 ** exponent - 1) * 1024);
}

/** The number of f16 bits. */
function halfValue(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

let halfValues: Float32Array | undefined;

/** The numbers of f16 bits; a table, for there may be millions. */
function halvesToFloats(halves: Uint16Array): Float32Array {
  halfValues ??= Float32Array.from({ length: 65_536 }, (_, bits) => halfValue(bits));
  const table = halfValues;
  const floats = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) floats[i] = table[halves[i]!]!;
  return floats;
}

/** See the file's head. Made by {@link createTrialCall}. */
export class TrialCall {
  /** Rows that were computed plainly, by head and token: every candidate is held against the same. */
  private readonly plainRows = new Map<number, ReturnType<typeof plainRow>>();

  constructor(
    private readonly device: GPUDevice,
    private readonly resolved: ResolvedAttention,
    private readonly work: AttentionWork,
    readonly size: TrialSize,
    private readonly host: PlainCall,
    private readonly buffers: Readonly<Record<"query" | "key" | "value" | "output" | "lse", GPUBuffer>>,
    private readonly call: AttentionCall,
    private readonly piece: AttentionPiece,
  ) {}

  /** Encodes one run. */
  encode(engine: AttentionEngine, encoder: GPUCommandEncoder): void {
    if (this.work === "many-rows") engine.encodeOneShot(encoder, this.call, this.piece);
    else engine.encodeSplit(encoder, this.call, this.piece, Math.max(1, engine.splitsFor(this.piece)));
  }

  /** Forgets what the last candidate answered: one that writes nothing must not pass by its predecessor's result. */
  clear(encoder: GPUCommandEncoder): void {
    encoder.clearBuffer(this.buffers.output);
    encoder.clearBuffer(this.buffers.lse);
  }

  /** What the last run answered. */
  async result(): Promise<TrialResult> {
    const { output, lse } = this.buffers;
    const [outputBytes, lseBytes] = [await read(this.device, output), await read(this.device, lse)];
    const isHalf = this.resolved.dtype === "f16";
    return {
      output: isHalf ? halvesToFloats(new Uint16Array(outputBytes)) : new Float32Array(outputBytes),
      lse: new Float32Array(lseBytes),
    };
  }

  /** Tokens and heads that a run computes: all of them. */
  rows(): [token: number, head: number][] {
    const heads = this.size.kvHeads * this.resolved.group;
    return Array.from({ length: this.size.seqLen * heads }, (_, i) => [Math.floor(i / heads), i % heads]);
  }

  /** A few of {@link rows}, spread from the first to the last. */
  someRows(count: number): [token: number, head: number][] {
    const rows = this.rows();
    const last = rows.length - 1;
    if (rows.length <= count) return rows;
    return Array.from({ length: count }, (_, i) => rows[Math.round((i * last) / (count - 1))]!);
  }

  /** What is wrong with a result in these rows, held against the plain computation, as half a sentence; undefined: nothing. */
  fault(result: TrialResult, rows: readonly (readonly [token: number, head: number])[]): string | undefined {
    const { heads, valueDim, dtype } = this.resolved;
    for (const [token, head] of rows) {
      const plain = this.plain(token, head);
      const start = rowStart(this.resolved, this.size.seqLen, heads, valueDim, token, head);
      const at = `${this.size.seqLen} x ${this.size.kvSeqLen}, token ${token} of head ${head}`;
      for (let e = 0; e < valueDim; e++) {
        const got = result.output[start + e]!;
        // Written so that NaN is wrong.
        if (!(Math.abs(got - plain.output[e]!) <= TOLERANCE[dtype]))
          return `expected ${plain.output[e]!.toPrecision(5)}, got ${got.toPrecision(5)} (${at}, element ${e})`;
      }
      const lse = result.lse[head * this.size.seqLen + token]!;
      if (!(Math.abs(lse - plain.lse) <= LSE_TOLERANCE))
        return `expected lse ${plain.lse.toPrecision(6)}, got ${lse.toPrecision(6)} (${at})`;
    }
    return undefined;
  }

  /** The row in which two results are furthest apart; undefined where they agree everywhere. */
  disagreement(a: TrialResult, b: TrialResult): [token: number, head: number] | undefined {
    const { heads, valueDim, dtype, layout } = this.resolved;
    const { seqLen } = this.size;
    const furthest = (x: Float32Array, y: Float32Array, tolerance: number): number | undefined => {
      let worst = tolerance;
      let at: number | undefined;
      for (let i = 0; i < x.length; i++) {
        const apart = Math.abs(x[i]! - y[i]!);
        if (apart <= worst) continue;
        if (Number.isNaN(apart)) return i;
        worst = apart;
        at = i;
      }
      return at;
    };
    const element = furthest(a.output, b.output, 2 * TOLERANCE[dtype]);
    if (element !== undefined) {
      const row = Math.floor(element / valueDim);
      return layout === "bthd" ? [Math.floor(row / heads), row % heads] : [row % seqLen, Math.floor(row / seqLen)];
    }
    const row = furthest(a.lse, b.lse, 2 * LSE_TOLERANCE);
    return row === undefined ? undefined : [row % seqLen, Math.floor(row / seqLen)];
  }

  private plain(token: number, head: number): ReturnType<typeof plainRow> {
    const key = head * this.size.seqLen + token;
    let row = this.plainRows.get(key);
    if (!row) this.plainRows.set(key, (row = plainRow(this.resolved, this.host, token, head)));
    return row;
  }

  destroy(): void {
    for (const buffer of Object.values(this.buffers)) release(buffer);
  }
}

/** Takes the buffers and fills them. Queries are at the end of the keys. @throws {GpuMemoryError} */
export async function createTrialCall(
  device: GPUDevice,
  resolved: ResolvedAttention,
  work: AttentionWork,
  size: TrialSize,
): Promise<TrialCall> {
  const { heads, kvHeads, headDim, valueDim, dtype, bytesPerElement } = resolved;
  const { seqLen, kvSeqLen } = size;
  const counts = {
    query: seqLen * heads * headDim,
    key: kvSeqLen * kvHeads * headDim,
    value: kvSeqLen * kvHeads * valueDim,
    output: seqLen * heads * valueDim,
  };
  const names = ["query", "key", "value", "output"] as const;
  const list = names.map((name) => ({ label: `tuner ${name}`, byteLength: counts[name] * bytesPerElement }));
  const made = await allocateAll(
    device,
    [...list, { label: "tuner lse", byteLength: seqLen * heads * 4 }].map((options) => ({
      ...options,
      usage: STORAGE,
    })),
  );
  const [query, key, value, output, lse] = made as [GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer];
  // Queries of up to 8 spread the scores, so that the running maximum matters.
  const host: Record<"query" | "key" | "value", Float32Array> = {
    ...{ query: new Float32Array(counts.query), key: new Float32Array(counts.key) },
    value: new Float32Array(counts.value),
  };
  for (const [index, [name, buffer]] of Object.entries({ query, key, value }).entries()) {
    const numbers = host[name as "query"];
    const factor = name === "query" ? 8 : 1;
    const random = randomIntegers(index + 1);
    const bits = dtype === "f16" ? new Uint16Array(numbers.length) : undefined;
    for (let i = 0; i < numbers.length; i++) {
      const n = random();
      numbers[i] = (n * factor) / 256;
      // Three steps of the exponent are the factor of 8.
      if (bits) bits[i] = halfBits(n) + (factor === 8 && n !== 0 ? 3 << 10 : 0);
    }
    write(device, buffer, 0, bits ?? (numbers as Float32Array<ArrayBuffer>));
  }
  const call = describeCall(device, "tuner", resolved, {
    ...{ query, key, value, output, lse, batch: 1, seqLen, kvSeqLen },
    queryPositions: { start: kvSeqLen - seqLen },
  });
  const piece = { ...wholeCall(resolved, call), kvHeads: size.kvHeads };
  return new TrialCall(
    device,
    resolved,
    work,
    size,
    { ...host, seqLen, kvSeqLen },
    { query, key, value, output, lse },
    call,
    piece,
  );
}
