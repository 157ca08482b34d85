/** From logits on the GPU to the next token's id: greedily on the GPU, else by the sampler on the CPU. */
import { ModelFormatError } from "../errors.ts";
import { allocate, allocateAll, release } from "../gpu/buffers.ts";
import { type Argmax, createArgmax } from "../kernels/argmax.ts";
import { createSampler, greedyToken, type Sampler } from "./sampling.ts";

/** How the next token is chosen. */
export interface PickOptions {
  /** 0: greedy. */
  temperature: number;
  topP: number;
  topK: number;
  seed: number;
}

const nanError = () =>
  new ModelFormatError(
    "generate: expected logits to be numbers, got NaN: this model's weights hold NaN, or overflow on the way",
  );

const MAP_READ = 0x1;
const COPY_DST = 0x8;

/**
 * Picks tokens of one run. The choice is encoded behind what computes the logits, so that one submit does both. The greedy
 * choice never leaves the GPU on its way to the next step, so that this can be on the queue before the id is known here.
 */
export class TokenPicker {
  /** Where ids (or logits) are read back, in turn: one may still be read while the next step writes the other. */
  private turn = 0;

  private constructor(
    private readonly logits: GPUBuffer,
    private readonly vocabSize: number,
    private readonly staging: readonly GPUBuffer[],
    private readonly greedy: { argmax: Argmax; index: GPUBuffer } | undefined,
    private readonly sampler: Sampler | undefined,
  ) {}

  /** @param logits f32 `[V]` @throws {GpuMemoryError} */
  static async create(
    device: GPUDevice,
    logits: GPUBuffer,
    vocabSize: number,
    options: PickOptions,
  ): Promise<TokenPicker> {
    const staging = { label: "token readback", usage: MAP_READ | COPY_DST };
    if (options.temperature > 0) {
      const buffer = await allocate(device, { ...staging, byteLength: vocabSize * 4 });
      return new TokenPicker(logits, vocabSize, [buffer], undefined, createSampler(options));
    }
    const argmax = await createArgmax(device);
    const [even, odd, index] = await allocateAll(device, [
      { ...staging, byteLength: 8 },
      { ...staging, byteLength: 8 },
      { label: "token", byteLength: 4 },
    ]);
    return new TokenPicker(logits, vocabSize, [even!, odd!], { argmax, index: index! }, undefined);
  }

  /** The choice is made on the GPU: the next step can be submitted before {@link take} resolves. */
  get isOnGpu(): boolean {
    return this.greedy !== undefined;
  }

  /**
   * Encodes the choice; read it with {@link take} after the submit.
   * @param ids where a choice made on the GPU goes for the next step (its first element).
   */
  encode(encoder: GPUCommandEncoder, ids: GPUBuffer): void {
    const { greedy, logits, vocabSize } = this;
    const staging = this.staging[this.turn]!;
    if (!greedy) {
      encoder.copyBufferToBuffer(logits, 0, staging, 0, vocabSize * 4);
      return;
    }
    greedy.argmax.encode(encoder, { input: logits, output: greedy.index, rows: 1, width: vocabSize });
    encoder.copyBufferToBuffer(greedy.index, 0, staging, 0, 4);
    encoder.copyBufferToBuffer(logits, 0, staging, 4, 4);
    encoder.copyBufferToBuffer(greedy.index, 0, ids, 0, 4);
  }

  /**
   * The id of the choice that was encoded last.
   * @throws {ModelFormatError} where the logits are no numbers: weights that hold NaN or overflow. (The greedy choice looks
   *   at the first logit, which a NaN anywhere before the head reaches.)
   */
  async take(): Promise<number> {
    const staging = this.staging[this.turn]!;
    this.turn = (this.turn + 1) % this.staging.length;
    await staging.mapAsync(MAP_READ);
    const mapped = staging.getMappedRange().slice(0);
    staging.unmap();
    const logits = new Float32Array(mapped);
    if (Number.isNaN(logits[this.sampler ? 0 : 1])) throw nanError();
    return this.sampler ? this.sampler.sample(logits.subarray(0, this.vocabSize)) : new Uint32Array(mapped)[0]!;
  }

  release(): void {
    for (const buffer of this.staging) release(buffer);
    release(this.greedy?.index);
  }
}

/** Picks tokens from logits in host memory, exactly as {@link TokenPicker} does from those on the GPU. */
export interface HostPicker {
  /** Tokens picked so far: what a picker that takes over {@link skip}s. */
  readonly draws: number;
  /** The next token's id. @param logits `[V]` @throws {ModelFormatError} where they are no numbers. */
  pick(logits: Float32Array): number;
  /** Moves on as if so many tokens had been picked, so that another picker's answer goes on token for token. */
  skip(draws: number): void;
}

/** A picker for logits that come to the host anyway. @throws {OptionError} as `createSampler`. */
export function createHostPicker(options: PickOptions): HostPicker {
  const sampler = options.temperature > 0 ? createSampler(options) : undefined;
  let draws = 0;
  return {
    get draws() {
      return draws;
    },
    pick(logits) {
      if (logits.some(Number.isNaN)) throw nanError();
      draws += 1;
      return sampler ? sampler.sample(logits) : greedyToken(logits);
    },
    skip(count) {
      draws += count;
      sampler?.skip(count);
    },
  };
}
