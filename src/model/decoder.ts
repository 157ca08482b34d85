/**
 * The decoder's weights and kernels, and what one layer is: RMSNorm, Q/K/V, norms of heads (Qwen3), RoPE | attention |
 * output projection and residual, RMSNorm, chunked MLP and residual. Everything here encodes; attention stands between
 * the two halves, because on a ring it submits by itself.
 */
import { allocateAll, type BufferView, release } from "../gpu/buffers.ts";
import type { CommandTarget } from "../gpu/dispatch.ts";
import { createEmbed, type Embed } from "../kernels/embed.ts";
import { createMatmul, type Matmul } from "../kernels/matmul.ts";
import { createMlp, type Mlp } from "../kernels/mlp.ts";
import { createRmsNorm, type RmsNorm } from "../kernels/rmsnorm.ts";
import { createRope, type Rope } from "../kernels/rope.ts";
import { ropeTable } from "../kernels/rope-tables.ts";
import type { WeightDtype } from "../shape.ts";
import type { ModelConfig } from "./config.ts";
import { releaseWeights, type Weights, type WeightTensor } from "./weights.ts";

/** Intermediate tensors of one chunk, f32, made once per run and used by every layer of every chunk. */
export interface Activations {
  /** Tokens that fit. */
  readonly chunkSize: number;
  /** u32 `[chunk]` */
  readonly ids: GPUBuffer;
  /** cos and sin, `[chunk, D/2, 2]` */
  readonly rope: GPUBuffer;
  /** The residual stream, `[chunk, C]`. */
  readonly hidden: GPUBuffer;
  /** `[chunk, C]` */
  readonly normed: GPUBuffer;
  /** `[chunk, H, D]` */
  readonly query: GPUBuffer;
  /** `[chunk, K, D]` */
  readonly key: GPUBuffer;
  /** `[chunk, K, D]` */
  readonly value: GPUBuffer;
  /** Attention's output, `[chunk, H, D]`. */
  readonly attended: GPUBuffer;
  /** Between the MLP's products, `[chunk of the MLP, F]`. */
  readonly intermediate: GPUBuffer;
  /** `[V]`, of one row. */
  readonly logits: GPUBuffer;
  release(): void;
}

/** Kernels that come in a variant per type of the weights they read. */
interface DtypeKernels {
  matmul: Matmul;
  /** Where the model has biases. */
  matmulBias: Matmul | undefined;
  norm: RmsNorm;
}

/** A weight with the kernel that reads its type, and its bias, of the same type, where it has one. */
interface Linear {
  weight: WeightTensor;
  bias: WeightTensor | undefined;
  kernel: Matmul;
}

interface Norm {
  weight: WeightTensor;
  kernel: RmsNorm;
}

interface Layer {
  inputNorm: Norm;
  query: Linear;
  key: Linear;
  value: Linear;
  queryNorm: Norm | undefined;
  keyNorm: Norm | undefined;
  output: Linear;
  mlpNorm: Norm;
  gate: Linear;
  up: Linear;
  down: Linear;
  mlp: Mlp;
}

/** A kernel; some hold memory of their own. */
interface Destroyable {
  destroy?(): void;
}

/**
 * Compiles the kernels for a model and takes over its weights.
 * @param weights A matrix and its bias share a type, and so do an MLP's matrices.
 * @throws {ShaderCompileError | GpuMemoryError} After an abort: `signal.reason`, once the compile in progress has ended.
 */
export async function createDecoder(
  device: GPUDevice,
  config: ModelConfig,
  weights: Weights,
  { mlpChunkSize, signal }: { mlpChunkSize: number; signal: AbortSignal },
): Promise<Decoder> {
  const made: Destroyable[] = [];
  const keep = async <T extends object>(kernel: Promise<T>): Promise<T> => {
    const one = await kernel;
    made.push(one as Destroyable);
    return one;
  };
  try {
    const { hiddenSize, intermediateSize, hiddenAct: activation, mlpBias, headDim, rmsNormEps: eps } = config;
    const gates = Array.from({ length: config.layerCount }, (_, layer) => `model.layers.${layer}.mlp.gate_proj.weight`);
    const mlpDtypes = new Set(gates.map((name) => weights.get(name)!.dtype));
    const sizes = { hiddenSize, intermediateSize, mlpChunkSize, hasBias: mlpBias, activation, gated: true };
    const hasBias = [...weights.keys()].some((name) => name.endsWith(".bias"));
    const { dtype: embedDtype } = weights.get("model.embed_tokens.weight")!;
    // All at once: a driver compiles on as many threads as it has.
    const byDtype = new Map<WeightDtype, DtypeKernels>();
    const mlps = new Map<WeightDtype, Mlp>();
    const forDtype = async (weightDtype: WeightDtype) => {
      const [matmul, matmulBias, norm] = await Promise.all([
        keep(createMatmul(device, { weightDtype })),
        hasBias ? keep(createMatmul(device, { weightDtype, hasBias })) : undefined,
        keep(createRmsNorm(device, { weightDtype, eps })),
      ]);
      byDtype.set(weightDtype, { matmul, matmulBias, norm });
    };
    const mlpForDtype = async (weightDtype: WeightDtype) =>
      mlps.set(weightDtype, await keep(createMlp(device, { ...sizes, weightDtype, scratch: "caller" })));
    const work = [
      keep(createRope(device, { headDim })),
      keep(createEmbed(device, { weightDtype: embedDtype })),
      ...[...new Set([...weights.values()].map(({ dtype }) => dtype))].map(forDtype),
      ...[...mlpDtypes].map(mlpForDtype),
    ] as const;
    // On a failure the rest is waited for, so that it can be destroyed.
    await Promise.allSettled(work);
    await Promise.all(work);
    // The weights may be gone by now.
    signal.throwIfAborted();
    const [rope, embed] = await Promise.all([work[0], work[1]]);
    return new Decoder(device, config, weights, { byDtype, mlps, rope, embed, made, mlpChunkSize });
  } catch (error) {
    for (const kernel of made) kernel.destroy?.();
    throw error;
  }
}

/** See the module's comment. Owns its weights and kernels. */
export class Decoder {
  readonly layerCount: number;
  private readonly layers: Layer[];
  private readonly finalNorm: Norm;
  private readonly head: Linear;
  private readonly embedding: WeightTensor;

  constructor(
    private readonly device: GPUDevice,
    private readonly config: ModelConfig,
    private readonly weights: Weights,
    private readonly kernels: {
      byDtype: ReadonlyMap<WeightDtype, DtypeKernels>;
      mlps: ReadonlyMap<WeightDtype, Mlp>;
      rope: Rope;
      embed: Embed;
      made: readonly Destroyable[];
      mlpChunkSize: number;
    },
  ) {
    this.layerCount = config.layerCount;
    this.layers = Array.from({ length: config.layerCount }, (_, layer) => this.layer(`model.layers.${layer}.`));
    this.finalNorm = this.norm("model.norm.weight")!;
    this.embedding = weights.get("model.embed_tokens.weight")!;
    this.head = this.linear(config.tieWordEmbeddings ? "model.embed_tokens" : "lm_head");
  }

  /** Takes memory for chunks of up to `chunkSize` tokens. @throws {GpuMemoryError} */
  async createActivations(chunkSize: number): Promise<Activations> {
    const { hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize } = this.config;
    const widths = {
      ids: 1,
      rope: headDim,
      hidden: hiddenSize,
      normed: hiddenSize,
      query: heads * headDim,
      key: kvHeads * headDim,
      value: kvHeads * headDim,
      attended: heads * headDim,
    };
    const list = Object.entries(widths).map(([label, width]) => ({ label, byteLength: chunkSize * width * 4 }));
    const mlpTokens = Math.min(chunkSize, this.kernels.mlpChunkSize);
    list.push({ label: "intermediate", byteLength: mlpTokens * intermediateSize * 4 });
    list.push({ label: "logits", byteLength: vocabSize * 4 });
    const buffers = await allocateAll(this.device, list);
    const named = Object.fromEntries(list.map(({ label }, index) => [label, buffers[index]!]));
    return {
      ...(named as unknown as Omit<Activations, "chunkSize" | "release">),
      chunkSize,
      release: () => {
        for (const buffer of buffers) release(buffer);
      },
    };
  }

  /** Writes the ids of a chunk (through the queue: before what is submitted next). */
  writeIds(activations: Activations, ids: readonly number[]): void {
    this.device.queue.writeBuffer(activations.ids, 0, Uint32Array.from(ids));
  }

  /** Writes the rope table of positions `start` to `start + count - 1` (through the queue, too). */
  writePositions(activations: Activations, start: number, count: number, ropeLength: number): void {
    this.writePositionList(
      activations,
      Array.from({ length: count }, (_, index) => start + index),
      ropeLength,
    );
  }

  /**
   * {@link writePositions} for any positions, one per row. Tokens at or past `ropeLength` came one by one: dynamic NTK saw
   * a sequence that ended with each.
   */
  writePositionList(activations: Activations, positions: readonly number[], ropeLength: number): void {
    const { rope: config, headDim: rotaryDim } = this.config;
    const { queue } = this.device;
    if (config.type !== "dynamic" || positions.every((position) => position < ropeLength)) {
      queue.writeBuffer(activations.rope, 0, ropeTable(config, { rotaryDim, positions, seqLen: ropeLength }));
      return;
    }
    for (const [row, position] of positions.entries()) {
      const seqLen = Math.max(ropeLength, position + 1);
      const table = ropeTable(config, { rotaryDim, positions: [position], seqLen });
      queue.writeBuffer(activations.rope, row * rotaryDim * 4, table);
    }
  }

  /** ids -> hidden */
  encodeEmbed(target: CommandTarget, { ids, hidden }: Activations, tokens: number): void {
    const { vocabSize, hiddenSize: width } = this.config;
    const { buffer: table } = this.embedding;
    this.kernels.embed.encode(target, { table, ids, output: hidden, tokens, vocabSize, width });
  }

  /** hidden -> query, key (rotated) and value, of all `count` rows. */
  encodeProjections(target: CommandTarget, activations: Activations, layer: number, count: number): void {
    const { hiddenSize, heads, kvHeads, headDim } = this.config;
    const { hidden, normed, query, key, value, rope: table } = activations;
    const { inputNorm, query: q, key: k, value: v, queryNorm, keyNorm } = this.layers[layer]!;
    this.encodeNorm(target, inputNorm, hidden, normed, count, hiddenSize);
    this.encodeLinear(target, q, normed, query, count, hiddenSize, heads * headDim);
    this.encodeLinear(target, k, normed, key, count, hiddenSize, kvHeads * headDim);
    this.encodeLinear(target, v, normed, value, count, hiddenSize, kvHeads * headDim);
    if (queryNorm) this.encodeNorm(target, queryNorm, query, undefined, count * heads, headDim);
    if (keyNorm) this.encodeNorm(target, keyNorm, key, undefined, count * kvHeads, headDim);
    this.kernels.rope.encode(target, { input: query, table, seqLen: count, heads });
    this.kernels.rope.encode(target, { input: key, table, seqLen: count, heads: kvHeads });
  }

  /** Queries from row `firstRow` on, and where attention's output for them goes. */
  attentionRows({ query, attended }: Activations, firstRow: number): { query: BufferView; output: BufferView } {
    const byteOffset = firstRow * this.config.heads * this.config.headDim * 4;
    return { query: { buffer: query, byteOffset }, output: { buffer: attended, byteOffset } };
  }

  /** attended -> hidden, rows `firstRow` to `firstRow + count - 1`: output projection and MLP, each added to the residual. */
  encodeRest(target: CommandTarget, activations: Activations, layer: number, firstRow: number, count: number): void {
    const { hiddenSize, heads, headDim } = this.config;
    const { output, mlpNorm, gate, up, down, mlp } = this.layers[layer]!;
    const { normed } = activations;
    const attended = { buffer: activations.attended, byteOffset: firstRow * heads * headDim * 4 };
    const hidden = { buffer: activations.hidden, byteOffset: firstRow * hiddenSize * 4 };
    this.encodeLinear(target, output, attended, hidden, count, heads * headDim, hiddenSize, true);
    this.encodeNorm(target, mlpNorm, hidden, normed, count, hiddenSize);
    mlp.encode(target, {
      input: normed,
      output: hidden,
      tokens: count,
      gate: gate.weight.buffer,
      up: up.weight.buffer,
      down: down.weight.buffer,
      gateBias: gate.bias?.buffer,
      upBias: up.bias?.buffer,
      downBias: down.bias?.buffer,
      scratch: activations.intermediate,
      accumulate: true,
    });
  }

  /** hidden -> logits, of one row. */
  encodeLogits(target: CommandTarget, { hidden, normed, logits }: Activations, row: number): void {
    const { hiddenSize, vocabSize } = this.config;
    const input = { buffer: hidden, byteOffset: row * hiddenSize * 4 };
    this.encodeNorm(target, this.finalNorm, input, normed, 1, hiddenSize);
    this.encodeLinear(target, this.head, normed, logits, 1, hiddenSize, vocabSize);
  }

  /** Gives weights and kernels back. Doing it twice does no harm. */
  destroy(): void {
    for (const kernel of this.kernels.made) kernel.destroy?.();
    releaseWeights(this.weights);
  }

  private encodeNorm(
    target: CommandTarget,
    { kernel, weight }: Norm,
    input: GPUBuffer | BufferView,
    output: GPUBuffer | undefined,
    rows: number,
    width: number,
  ): void {
    kernel.encode(target, { input, weight: weight.buffer, output, rows, width });
  }

  private encodeLinear(
    target: CommandTarget,
    { kernel, weight, bias }: Linear,
    input: GPUBuffer | BufferView,
    output: GPUBuffer | BufferView,
    rows: number,
    inFeatures: number,
    outFeatures: number,
    accumulate = false,
  ): void {
    const tensors = { input, weight: weight.buffer, bias: bias?.buffer, output };
    kernel.encode(target, { ...tensors, rows, inFeatures, outFeatures, accumulate });
  }

  private norm(name: string): Norm | undefined {
    const weight = this.weights.get(name);
    return weight && { weight, kernel: this.kernels.byDtype.get(weight.dtype)!.norm };
  }

  private linear(name: string): Linear {
    const weight = this.weights.get(`${name}.weight`)!;
    const bias = this.weights.get(`${name}.bias`);
    const kernels = this.kernels.byDtype.get(weight.dtype)!;
    return { weight, bias, kernel: bias ? kernels.matmulBias! : kernels.matmul };
  }

  private layer(name: string): Layer {
    const [gate, up, down] = ["gate", "up", "down"].map((part) => this.linear(`${name}mlp.${part}_proj`));
    return {
      inputNorm: this.norm(`${name}input_layernorm.weight`)!,
      query: this.linear(`${name}self_attn.q_proj`),
      key: this.linear(`${name}self_attn.k_proj`),
      value: this.linear(`${name}self_attn.v_proj`),
      queryNorm: this.norm(`${name}self_attn.q_norm.weight`),
      keyNorm: this.norm(`${name}self_attn.k_norm.weight`),
      output: this.linear(`${name}self_attn.o_proj`),
      mlpNorm: this.norm(`${name}post_attention_layernorm.weight`)!,
      gate: gate!,
      up: up!,
      down: down!,
      mlp: this.kernels.mlps.get(gate!.weight.dtype)!,
    };
  }
}
