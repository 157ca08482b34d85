/**
 * Where a model's time goes, and how near each part of a layer comes to what the adapter can do: parts are encoded by
 * themselves, many layers one after the other, in turn with the FMA peak and the read bandwidth. A part's share is the time that
 * it would take at the peak or at the bandwidth, whichever is longer, over the time that it takes.
 */
import { createFmaProbe, createReadProbe, type PresetName } from "../../src/index.ts";
import { createDecoder } from "../../src/model/decoder.ts";
import { createLayerAttention } from "../../src/model/kv-cache.ts";
import { presetConfig, randomWeights } from "../../src/model/presets.ts";
import type { BenchJob, BenchResult } from "../result-types.ts";
import { timeInTurn } from "../timing.ts";

/** A preset, and how many tokens are computed behind how many. */
export interface RooflineCase {
  name: string;
  preset: PresetName;
  /** Tokens of one call: a chunk of prefill, or 1. */
  tokens: number;
  /** Tokens before them. */
  context: number;
}

/** What a part of one layer does at least. */
interface Part {
  name: string;
  flops: number;
  bytes: number;
  /** How many of it a model has for each layer: 1, or one for all layers together. */
  perLayer: boolean;
  encode(pass: GPUComputePassEncoder, layer: number): void;
}

/** Layers that are made: enough to read other weights than those just read. */
const LAYERS = 2;
/** More than the caches of a processor hold. */
const READ_BYTES = 64 * 2 ** 20;

/** One row per part, milliseconds of one layer's (or of the one that a model has). @throws {GpuMemoryError} */
export async function measureRoofline(device: GPUDevice, job: BenchJob, shape: RooflineCase): Promise<BenchResult[]> {
  const { tokens, context } = shape;
  const full = presetConfig(shape.preset);
  const layerTypes = full.layerTypes.slice(0, LAYERS);
  const config = { ...full, layerCount: layerTypes.length, layerTypes };
  const { hiddenSize: width, intermediateSize: inner, heads, kvHeads, headDim, vocabSize } = config;
  const { signal } = new AbortController();
  const ring = { attention: "flash", worldSize: 1, layout: "zigzag", blockMemory: "gpu" } as const;
  const attention = await createLayerAttention(device, config, ring);
  const weights = await randomWeights(device, config);
  const decoder = await createDecoder(device, config, weights, { mlpChunkSize: 512, signal });
  const activations = await decoder.createActivations(tokens);
  const cache = await attention.createCache(context + tokens);
  const fma = await createFmaProbe(device);
  const read = await createReadProbe(device, READ_BYTES);
  try {
    const ids = Array.from({ length: tokens }, (_, index) => (index * 7919 + 3) % vocabSize);
    decoder.writeIds(activations, ids);
    decoder.writePositions(activations, context, tokens, context + tokens);
    const { key, value } = activations;
    const { query, output } = decoder.attentionRows(activations, 0);
    const step = { start: context, count: tokens, query, output, key: { buffer: key }, value: { buffer: value } };
    const projections = width * headDim * (heads + 2 * kvHeads);
    const rest = width * headDim * heads + 3 * width * inner;
    const pairs = tokens * context + (tokens * (tokens + 1)) / 2;
    const rowBytes = 8 * kvHeads * headDim;
    const matrix = (elements: number) => ({ flops: 2 * tokens * elements, bytes: 4 * elements });
    const parts: Part[] = [
      {
        ...{ name: "norm, Q, K, V, rope", ...matrix(projections), perLayer: true },
        encode: (pass, layer) => decoder.encodeProjections(pass, activations, layer, tokens),
      },
      {
        ...{ name: "attention", flops: 4 * heads * headDim * pairs, bytes: rowBytes * (context + tokens) },
        perLayer: true,
        encode: (pass, layer) => cache.encodeStep(pass, layer, step),
      },
      {
        ...{ name: "output, norm, MLP", ...matrix(rest), perLayer: true },
        encode: (pass, layer) => decoder.encodeRest(pass, activations, layer, 0, tokens),
      },
      {
        ...{ name: "norm, head", flops: 2 * width * vocabSize, bytes: 4 * width * vocabSize, perLayer: false },
        encode: (pass) => decoder.encodeLogits(pass, activations, tokens - 1),
      },
    ];
    const encodeAll = (part: Part) => (encoder: GPUCommandEncoder) => {
      const pass = encoder.beginComputePass();
      for (let layer = 0; layer < (part.perLayer ? config.layerCount : 1); layer++) part.encode(pass, layer);
      pass.end();
    };
    const times = await timeInTurn(
      device,
      [
        ...parts.map((part) => ({ name: part.name, encode: encodeAll(part) })),
        { name: "fma", encode: (encoder: GPUCommandEncoder) => fma.encode(encoder) },
        { name: "read", encode: (encoder: GPUCommandEncoder) => read.encode(encoder) },
      ],
      job,
    );
    const fmaPeakGflops = fma.flopCount / times.get("fma")!.median / 1e6;
    const readPeakGBps = read.byteLength / times.get("read")!.median / 1e6;
    return parts.map(({ name, flops, bytes, perLayer }) => {
      const whole = times.get(name)!;
      const count = perLayer ? config.layerCount : 1;
      const scale = (ms: number) => ms / count;
      const timeMs = {
        ...{ median: scale(whole.median), min: scale(whole.min), spread: whole.spread },
        samples: whole.samples.map(scale),
      };
      const gflops = flops / timeMs.median / 1e6;
      const readGBps = bytes / timeMs.median / 1e6;
      const [peakShare, bandwidthShare] = [gflops / fmaPeakGflops, readGBps / readPeakGBps];
      return {
        ...{ case: shape.name, group: "model", implementation: name, dtype: "f32", seqLen: tokens, timeMs },
        ...{ gflops, fmaPeakGflops, peakShare, readGBps, readPeakGBps, bandwidthShare },
        figures: {
          rooflineShare: Math.max(peakShare, bandwidthShare),
          msOfModel: timeMs.median * (perLayer ? full.layerCount : 1),
        },
      };
    });
  } finally {
    cache.release();
    activations.release();
    decoder.destroy();
    attention.destroy();
    fma.destroy();
    read.destroy();
  }
}
