/**
 * Decode over peers: K/V stay where they are. The one who leads computes the layers of the token; in each, all ranks answer
 * its query over what they hold, and the answers are merged by lse (FlashAttention's split over keys, across machines).
 */
import { OptionError, ShapeError } from "../errors.ts";
import { allocate, type BufferSource, release, viewOf } from "../gpu/buffers.ts";
import { untilAborted } from "../ring/abort.ts";
import { mergePartials } from "../ring/merge-partials.ts";
import type { PartialAttention } from "../ring/rank-types.ts";
import { expectInteger } from "../shape.ts";
import type { Activations } from "./decoder.ts";
import type { RankParts } from "./rank-forward.ts";
import type { DecodeExchange } from "./rank-types.ts";

const MAP_READ = 0x1;
const COPY_DST = 0x8;

/** A buffer through which small results come to the host: copied by the submit that computes them, mapped at once. */
export class HostCopy {
  private constructor(private readonly buffer: GPUBuffer) {}

  /** @throws {GpuMemoryError} */
  static async create(device: GPUDevice, label: string, byteLength: number): Promise<HostCopy> {
    return new HostCopy(await allocate(device, { label, byteLength, usage: MAP_READ | COPY_DST }));
  }

  /** Encodes the copies of the parts, one behind the other. */
  encode(encoder: GPUCommandEncoder, parts: readonly BufferSource[]): void {
    let at = 0;
    for (const part of parts) {
      const { buffer, byteOffset, byteLength } = viewOf(part);
      encoder.copyBufferToBuffer(buffer, byteOffset, this.buffer, at, byteLength);
      at += byteLength;
    }
  }

  /** What was copied; after a failure the copy is of no more use. @throws signal.reason */
  async take(byteLength: number, signal: AbortSignal): Promise<Float32Array<ArrayBuffer>> {
    await untilAborted(this.buffer.mapAsync(MAP_READ, 0, byteLength), signal);
    const floats = new Float32Array(this.buffer.getMappedRange(0, byteLength).slice(0));
    this.buffer.unmap();
    return floats;
  }

  release(): void {
    release(this.buffer);
  }
}

/** Memory that a lead works with, besides activations of one row. */
export interface LeadCopies {
  /** query, key and value of one layer. */
  projections: HostCopy;
  /** `[V]` */
  logits: HostCopy;
}

/** See `RankRun.lead`. */
export async function leadToken(
  parts: RankParts,
  activations: Activations,
  copies: LeadCopies,
  token: { id: number; position: number; keeps: boolean },
  exchange: DecodeExchange,
  signal: AbortSignal,
): Promise<Float32Array<ArrayBuffer>> {
  const { device, decoder, cache, attention, heads, kvHeads, headDim, vocabSize } = parts;
  const { position, keeps } = token;
  expectInteger("lead", "id", token.id, 0, vocabSize - 1);
  expectInteger("lead", "position", position, 0);
  const ranges = [{ start: position, stride: 1, count: 1 }];
  const queryLength = heads * headDim;
  const rowLength = kvHeads * headDim;
  const query = { buffer: activations.query, byteLength: queryLength * 4 };
  const key = { buffer: activations.key, byteLength: rowLength * 4 };
  const value = { buffer: activations.value, byteLength: rowLength * 4 };
  decoder.writeIds(activations, [token.id]);
  decoder.writePositions(activations, position, 1, position + 1);
  const begin = (label: string) => device.createCommandEncoder({ label });
  let encoder = begin(`lead ${position}`);
  decoder.encodeEmbed(encoder, activations, 1);
  for (let layer = 0; layer < decoder.layerCount; layer++) {
    if (keeps) {
      expectNew("lead", parts, layer, position);
      await cache.reserve(layer, ranges);
    }
    signal.throwIfAborted();
    const pass = encoder.beginComputePass();
    decoder.encodeProjections(pass, activations, layer, 1);
    if (keeps) cache.encodeAppend(pass, layer, { key, value, ranges });
    pass.end();
    copies.projections.encode(encoder, [query, key, value]);
    device.queue.submit([encoder.finish()]);
    // The copy is mapped before anything else goes to the GPU; the own answer is computed while the others' are on their way.
    const row = copies.projections.take((queryLength + 2 * rowLength) * 4, signal);
    const block = cache.blocks[layer]!;
    const answer =
      block.tokenCount > 0 ? attention[layer]!.answer(query, 1, position, block, signal) : Promise.resolve(undefined);
    const asked = row.then((floats) =>
      exchange.ask(
        layer,
        floats.slice(0, queryLength),
        floats.slice(queryLength, queryLength + rowLength),
        floats.slice(queryLength + rowLength),
      ),
    );
    const [own, others] = await both(answer, untilAborted(asked, signal));
    const merged = own && others ? mergePartials(own, others, heads, headDim) : (own ?? others);
    if (!merged) throw new OptionError(`lead: expected somebody to hold the token at ${position}, got no answer`);
    signal.throwIfAborted();
    expectLength("lead", "the merged output", merged.output, queryLength);
    device.queue.writeBuffer(activations.attended, 0, merged.output);
    encoder = begin(`lead ${position}, after attention ${layer}`);
    const rest = encoder.beginComputePass();
    decoder.encodeRest(rest, activations, layer, 0, 1);
    rest.end();
  }
  decoder.encodeLogits(encoder, activations, 0);
  copies.logits.encode(encoder, [{ buffer: activations.logits, byteLength: vocabSize * 4 }]);
  device.queue.submit([encoder.finish()]);
  return copies.logits.take(vocabSize * 4, signal);
}

/** {@link leadToken} where there is nobody else: one submit for the whole token. */
export async function leadAlone(
  parts: RankParts,
  activations: Activations,
  logits: HostCopy,
  token: { id: number; position: number },
  signal: AbortSignal,
): Promise<Float32Array<ArrayBuffer>> {
  const { device, decoder, cache, attention, vocabSize } = parts;
  const { position } = token;
  expectInteger("lead", "id", token.id, 0, vocabSize - 1);
  expectInteger("lead", "position", position, 0);
  const ranges = [{ start: position, stride: 1, count: 1 }];
  // All layers at once; after a failure the rest is waited for, so that nothing arrives behind a lead that has ended.
  const rooms = attention.map((_, layer) => {
    expectNew("lead", parts, layer, position);
    return cache.reserve(layer, ranges);
  });
  await Promise.allSettled(rooms);
  await Promise.all(rooms);
  signal.throwIfAborted();
  decoder.writeIds(activations, [token.id]);
  decoder.writePositions(activations, position, 1, position + 1);
  const encoder = device.createCommandEncoder({ label: `lead ${position}, alone` });
  const pass = encoder.beginComputePass();
  decoder.encodeEmbed(pass, activations, 1);
  const { key, value } = activations;
  const { query, output } = decoder.attentionRows(activations, 0);
  for (const [layer, one] of attention.entries()) {
    decoder.encodeProjections(pass, activations, layer, 1);
    cache.encodeAppend(pass, layer, { key, value, ranges });
    one.encodeAnswer(pass, { query, output, position, block: cache.blocks[layer]! });
    decoder.encodeRest(pass, activations, layer, 0, 1);
  }
  decoder.encodeLogits(pass, activations, 0);
  pass.end();
  logits.encode(encoder, [{ buffer: activations.logits, byteLength: vocabSize * 4 }]);
  device.queue.submit([encoder.finish()]);
  return logits.take(vocabSize * 4, signal);
}

/** See `RankRun.answer`. @param incoming Where key and value of a token that is kept go on their way into the block. */
export async function answerQuery(
  parts: RankParts,
  incoming: { key: GPUBuffer; value: GPUBuffer },
  layer: number,
  position: number,
  query: Float32Array<ArrayBuffer>,
  keyValue: { key: Float32Array<ArrayBuffer>; value: Float32Array<ArrayBuffer> } | undefined,
  signal: AbortSignal,
): Promise<PartialAttention> {
  const { device, decoder, cache, attention, heads, kvHeads, headDim } = parts;
  expectInteger("answer", "layer", layer, 0, decoder.layerCount - 1);
  expectInteger("answer", "position", position, 0);
  expectLength("answer", "query", query, heads * headDim);
  const block = cache.blocks[layer]!;
  if (keyValue) {
    for (const name of ["key", "value"] as const) expectLength("answer", name, keyValue[name], kvHeads * headDim);
    expectNew("answer", parts, layer, position);
    const ranges = [{ start: position, stride: 1, count: 1 }];
    await cache.reserve(layer, ranges);
    signal.throwIfAborted();
    device.queue.writeBuffer(incoming.key, 0, keyValue.key);
    device.queue.writeBuffer(incoming.value, 0, keyValue.value);
    const encoder = device.createCommandEncoder({ label: `keep ${position}` });
    cache.encodeAppend(encoder, layer, { ...incoming, ranges });
    device.queue.submit([encoder.finish()]);
  }
  if (block.tokenCount > 0) return attention[layer]!.answer(query, 1, position, block, signal);
  return { output: new Float32Array(heads * headDim), lse: new Float32Array(heads).fill(Number.NEGATIVE_INFINITY) };
}

/** Both results. After a failure the own answer is waited for: nothing goes on behind a lead that has ended. */
async function both<A, B>(own: Promise<A>, others: Promise<B>): Promise<[A, B]> {
  try {
    return await Promise.all([own, others]);
  } catch (error) {
    await own.catch(() => {});
    throw error;
  }
}

function expectLength(where: string, name: string, tensor: Float32Array, length: number): void {
  if (tensor.length !== length)
    throw new ShapeError(`${where}: expected ${name} of ${length} elements, got ${tensor.length}`);
}

function expectNew(where: string, { cache }: RankParts, layer: number, position: number): void {
  if (cache.holds(layer, position))
    throw new OptionError(`${where}: expected a position that is not held yet, got ${position} (layer ${layer})`);
}
