/** Tokens through all layers: a chunk of prefill, or one token of decode, against the KV cache of a run. */
import type { RingStep } from "../ring/types.ts";
import type { Activations, Decoder } from "./decoder.ts";
import type { KvCache } from "./kv-cache.ts";

/** Encodes the choice of the next token. */
export type EncodePick = (encoder: GPUCommandEncoder) => void;

/** One pass for everything: opening a pass per dispatch is what would cost most in decoding. */
interface Commands {
  encoder: GPUCommandEncoder;
  pass: GPUComputePassEncoder;
}

/** How one chunk is run. */
export interface ForwardOptions {
  signal: AbortSignal;
  /** Tokens in the whole prompt: what dynamic NTK scaling sees. */
  ropeLength: number;
  /** Encodes the choice of the next token behind the logits. */
  encodePick?: EncodePick;
  /** The chunk is one token of decode: its query visits the blocks instead of having them sent around. */
  isDecode?: boolean;
  /** Ring steps of one layer of prefill, when it is done. */
  onSteps?: (layer: number, steps: readonly RingStep[]) => void;
}

/** One run's way through the model: decoder (weights and kernels), activations of a chunk, KV cache. */
export class Forward {
  constructor(
    private readonly device: GPUDevice,
    private readonly decoder: Decoder,
    private readonly activations: Activations,
    private readonly cache: KvCache,
  ) {}

  /**
   * Prefill of one chunk at positions `start, start + 1, ...`. With `wantsLogits` the logits after its last token are in
   * the activations when this resolves (submitted).
   *
   * In the last layer only the prompt's very last row is ever read, so chunks before the last stop once their keys and
   * values are kept, and the last chunk goes on with one row.
   * @throws signal.reason
   */
  async prefill(ids: readonly number[], start: number, wantsLogits: boolean, options: ForwardOptions): Promise<void> {
    const { decoder, activations, cache } = this;
    const { signal } = options;
    const count = ids.length;
    const lastLayer = decoder.layerCount - 1;
    decoder.writeIds(activations, ids);
    decoder.writePositions(activations, start, count, options.ropeLength);
    /** Attention that is submitted and not known to be done. */
    let ahead: { layer: number; steps: Promise<RingStep[]> } | undefined;
    const settle = async () => {
      if (!ahead) return;
      const { layer, steps } = ahead;
      ahead = undefined;
      const done = await steps;
      signal.throwIfAborted();
      options.onSteps?.(layer, done);
    };
    if (cache.canEncodeStep) await cache.reserve(start, count);
    signal.throwIfAborted();
    // What follows one layer's attention and what precedes the next one's go to the GPU together.
    let pending = this.commands(`prefill ${start}`);
    decoder.encodeEmbed(pending.pass, activations, count);
    for (let layer = 0; layer <= lastLayer; layer++) {
      decoder.encodeProjections(pending.pass, activations, layer, count);
      const keyValue = { start, count, key: { buffer: activations.key }, value: { buffer: activations.value } };
      if (cache.canEncodeStep) cache.encodeAppend(pending.pass, layer, keyValue);
      this.submit(pending, signal);
      if (!cache.canEncodeStep) await cache.append(layer, keyValue, signal);
      signal.throwIfAborted();
      if (layer === lastLayer && !wantsLogits) return settle();
      const firstRow = layer === lastLayer ? count - 1 : 0;
      const { query, output } = decoder.attentionRows(activations, firstRow);
      const rows = count - firstRow;
      const tensors = { start: start + firstRow, count: rows, query, output };
      if (options.isDecode) await cache.decode(layer, tensors, signal);
      else {
        const { submitted, steps } = cache.attend(layer, tensors, signal);
        // After a failure nobody may come to wait for them.
        steps.catch(() => {});
        await submitted;
        // The GPU goes on to the next layer while the host hears of this one; no further ahead, so that an abort stops at once.
        await settle();
        ahead = { layer, steps };
      }
      signal.throwIfAborted();
      pending = this.commands(`prefill ${start}, after attention ${layer}`);
      decoder.encodeRest(pending.pass, activations, layer, firstRow, rows);
    }
    decoder.encodeLogits(pending.pass, activations, count - 1);
    this.submit(pending, signal, options.encodePick);
    await settle();
  }

  /**
   * One token at `position`; its logits are in the activations when this resolves (submitted).
   * @param id undefined where it is on the GPU already, chosen by the step before; needs `cache.canEncodeStep`.
   * @throws signal.reason
   */
  async step(id: number | undefined, position: number, signal: AbortSignal, encodePick: EncodePick): Promise<void> {
    const { decoder, activations, cache } = this;
    if (!cache.canEncodeStep && id !== undefined)
      return this.prefill([id], position, true, { signal, ropeLength: position + 1, encodePick, isDecode: true });
    await cache.reserve(position, 1);
    signal.throwIfAborted();
    if (id !== undefined) decoder.writeIds(activations, [id]);
    decoder.writePositions(activations, position, 1, position + 1);
    const commands = this.commands(`decode ${position}`);
    const { pass } = commands;
    decoder.encodeEmbed(pass, activations, 1);
    const { query, output } = decoder.attentionRows(activations, 0);
    const [key, value] = [{ buffer: activations.key }, { buffer: activations.value }];
    for (let layer = 0; layer < decoder.layerCount; layer++) {
      decoder.encodeProjections(pass, activations, layer, 1);
      cache.encodeStep(pass, layer, { start: position, count: 1, query, output, key, value });
      decoder.encodeRest(pass, activations, layer, 0, 1);
    }
    decoder.encodeLogits(pass, activations, 0);
    this.submit(commands, signal, encodePick);
  }

  private commands(label: string): Commands {
    const encoder = this.device.createCommandEncoder({ label });
    return { encoder, pass: encoder.beginComputePass({ label }) };
  }

  private submit({ encoder, pass }: Commands, signal: AbortSignal, encodePick?: EncodePick): void {
    signal.throwIfAborted();
    pass.end();
    encodePick?.(encoder);
    this.device.queue.submit([encoder.finish()]);
  }
}
