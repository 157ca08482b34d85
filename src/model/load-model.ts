/** From a source to a model on the GPU: config, tokenizer, kernels, weights. */
import { OptionError } from "../errors.ts";
import { explainFailure, lossSignal } from "../gpu/device-loss.ts";
import { untilAborted } from "../ring/abort.ts";
import { describeValue, expectInteger } from "../shape.ts";
import type { ModelConfig } from "./config.ts";
import { createDecoder } from "./decoder.ts";
import type { JsonObject } from "./json.ts";
import { createLayerAttention } from "./kv-cache.ts";
import { LoadedModel, resolveRing } from "./model.ts";
import { type PresetName, presetConfig, randomWeights } from "./presets.ts";
import { readDescription } from "./read-description.ts";
import { openModelSource } from "./sources.ts";
import type { Tokenizer } from "./tokenizer.ts";
import type { LoadOptions, LoadProgress, Model, ModelSource, RingOptions } from "./types.ts";
import { loadWeights, releaseWeights, type Weights } from "./weights.ts";

/** How a preset is made. */
export interface PresetOptions extends Omit<LoadOptions, "token"> {
  /** Seed of the random weights. Default 0. */
  seed?: number;
}

/** What loading goes on with once its options are checked. */
interface Loading {
  device: GPUDevice;
  ring: Required<RingOptions>;
  mlpChunkSize: number;
  signal: AbortSignal;
  report(phase: LoadProgress["phase"], message: string): void;
}

/** Tokens per chunk through the MLP, unless given. */
const MLP_CHUNK_SIZE = 512;

/** Checks the options, ties caller's abort and device's loss into one signal, and names the cause of a failure. */
async function withLoading(
  where: string,
  options: LoadOptions,
  load: (loading: Loading) => Promise<Model>,
): Promise<Model> {
  const device = options?.device;
  if (typeof device?.createBuffer !== "function")
    throw new OptionError(`${where}: expected options.device to be a GPUDevice, got ${describeValue(device)}`);
  const ring = resolveRing(where, options.ring);
  const mlpChunkSize = expectInteger(where, "mlpChunkSize", options.mlpChunkSize ?? MLP_CHUNK_SIZE);
  const lost = lossSignal(device);
  const signal = options.signal ? AbortSignal.any([options.signal, lost]) : lost;
  const report: Loading["report"] = (phase, message) =>
    options.onProgress?.({ phase, message, loadedBytes: 0, totalBytes: 0 });
  try {
    // A device that is lost already says so only a moment later.
    await Promise.race([device.lost, Promise.resolve()]);
    signal.throwIfAborted();
    return await load({ device, ring, mlpChunkSize, signal, report });
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw error instanceof OptionError ? error : await explainFailure(device, error);
  }
}

/**
 * Kernels, weights and the model around them. A failure or abort ends it at once: what is there is given back, and what was
 * still on its way (a compile cannot be called off) is given back when it arrives.
 */
async function assemble(
  loading: Loading,
  parts: { name: string; configJson: JsonObject; config: ModelConfig; tokenizer: Tokenizer | undefined },
  readWeights: (signal: AbortSignal) => Promise<Weights>,
): Promise<Model> {
  const { device, ring, report } = loading;
  const { config } = parts;
  // A failure of one part ends the others.
  const failed = new AbortController();
  const signal = AbortSignal.any([loading.signal, failed.signal]);
  const giveBack: (() => void)[] = [];
  let isOver = false;
  const own = <T>(work: Promise<T>, destroy: (part: T) => void): Promise<T> => {
    work.then(
      (part) => (isOver ? destroy(part) : giveBack.push(() => destroy(part))),
      (error) => failed.abort(error),
    );
    return untilAborted(work, signal);
  };
  try {
    report("compile", "Compiling attention");
    // Compiling takes the CPU, reading the disk or the network: side by side.
    const [attention, weights] = await Promise.all([
      own(createLayerAttention(device, config, ring), (attention) => attention.destroy()),
      own(readWeights(signal), releaseWeights),
    ]);
    report("compile", "Compiling layers");
    const { mlpChunkSize } = loading;
    const decoder = await own(createDecoder(device, config, weights, { mlpChunkSize, signal }), (decoder) =>
      decoder.destroy(),
    );
    signal.throwIfAborted();
    report("ready", `${parts.name} is ready`);
    return new LoadedModel({ device, ...parts, decoder, attention });
  } catch (error) {
    isOver = true;
    failed.abort(error);
    for (const undo of giveBack) undo();
    throw error;
  }
}

/**
 * Loads a model of the LLaMA family: Llama, Mistral, Qwen2, Qwen3. Config and tokenizer come first, so that what is not
 * supported is refused by name before a byte of weights is read; then tensors stream to the GPU one at a time.
 * @param source A Hugging Face id ("owner/name"), the URL of a folder, File objects, a folder handle, or {@link ModelFiles}.
 * @throws {UnsupportedModelError} naming what is not supported.
 * @throws {ModelFormatError} for a broken config, tokenizer, index or weights file.
 * @throws {ModelSourceError} where a file cannot be fetched or read whole.
 * @throws {GpuMemoryError} where the model does not fit.
 * @throws {DeviceLostError} where the device is lost. Abort rejects with `signal.reason`, at once. After any failure nothing
 *   is held; only what a compile in progress takes goes back when that ends.
 */
export function loadModel(source: ModelSource, options: LoadOptions): Promise<Model> {
  return withLoading("loadModel", options, async (loading) => {
    const { signal, device, report } = loading;
    const files = await openModelSource(source, { token: options.token });
    const description = await readDescription(files, { signal, report });
    const { onProgress, weightDtype } = options;
    return assemble(loading, description, (signal) =>
      loadWeights(device, files, description.config, { onProgress, signal, weightDtype }),
    );
  });
}

/**
 * A model of the original system's sizes with random weights, made on the spot: for benchmarks. It has no tokenizer:
 * prompts are token ids, and pieces have no text.
 * @param options `weightDtype` "auto" (the default) is f32.
 * @throws {OptionError} for a name that is none. Else as {@link loadModel}.
 */
export function loadPreset(name: PresetName, options: PresetOptions): Promise<Model> {
  return withLoading("loadPreset", options, async (loading) => {
    const config = presetConfig(name);
    const { seed, weightDtype, onProgress } = options;
    const dtype = weightDtype === undefined || weightDtype === "auto" ? "f32" : weightDtype;
    const configJson = { ...config } as JsonObject;
    return assemble(loading, { name, configJson, config, tokenizer: undefined }, (signal) =>
      randomWeights(loading.device, config, { seed, dtype, onProgress, signal }),
    );
  });
}
