/** From logits on the GPU to the next token's id: greedily on the GPU, else by the sampler on the CPU. */
import { allocate, allocateAll, release } from "../gpu/buffers.ts";
import { type Argmax, createArgmax } from "../kernels/argmax.ts";
import { createSampler, type Sampler } from "./sampling.ts";

/** How the next token is chosen. */
export interface PickOptions {
  /** 0: greedy. */
  temperature: number;
  topP: number;
  topK: number;
  seed: number;
}

const MAP_READ = 0x1;
const COPY_DST = 0x8;

/** Picks tokens of one run. The choice is encoded behind what computes the logits, so that one submit does both. */
export class TokenPicker {
  private constructor(
    private readonly logits: GPUBuffer,
    private readonly vocabSize: number,
    private readonly staging: GPUBuffer,
    private readonly greedy: { argmax: Argmax; index: GPUBuffer } | undefined,
    private readonly sampler: Sampler | undefined,
  ) {}

  /** @param logits f32 `[V]` @throws {GpuMemoryError} */
  static async create(device: GPUDevice, logits: GPUBuffer, vocabSize: number, options: PickOptions) {
    const staging = { label: "token readback", usage: MAP_READ | COPY_DST };
    if (options.temperature > 0) {
      const buffer = await allocate(device, { ...staging, byteLength: vocabSize * 4 });
      return new TokenPicker(logits, vocabSize, buffer, undefined, createSampler(options));
    }
    const argmax = await createArgmax(device);
    const [buffer, index] = await allocateAll(device, [
      { ...staging, byteLength: 4 },
      { label: "token", byteLength: 4 },
    ]);
    return new TokenPicker(logits, vocabSize, buffer!, { argmax, index: index! }, undefined);
  }

  /** Encodes the choice; read it with {@link take} after the submit. */
  encode(encoder: GPUCommandEncoder): void {
    const { greedy, logits, staging, vocabSize } = this;
    if (greedy) greedy.argmax.encode(encoder, { input: logits, output: greedy.index, rows: 1, width: vocabSize });
    const byteLength = greedy ? 4 : vocabSize * 4;
    encoder.copyBufferToBuffer(greedy?.index ?? logits, 0, staging, 0, byteLength);
  }

  /** The id that was chosen. */
  async take(): Promise<number> {
    await this.staging.mapAsync(MAP_READ);
    const mapped = this.staging.getMappedRange();
    const id = this.sampler
      ? this.sampler.sample(new Float32Array(mapped, 0, this.vocabSize).slice())
      : new Uint32Array(mapped)[0]!;
    this.staging.unmap();
    return id;
  }

  release(): void {
    release(this.staging);
    release(this.greedy?.index);
  }
}
