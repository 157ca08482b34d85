/** The weights of the default model, number by number. The derivation is in scripts/build-model.ts. */
import { copyCodes, matchCodes } from "./codes.ts";
import * as design from "./design.ts";
import { toHalf } from "./half.ts";

/** A matrix `[out, in]`, a vector `[n]` or an embedding `[vocab, hidden]`, row by row, every number a half. */
export interface Tensor {
  name: string;
  shape: readonly number[];
  data: Float64Array;
}

const { HIDDEN_SIZE, HEAD_DIM, CODE_DIM, CONSTANT, COPY_CHANNEL, COPY_SIZE, MATCH_LENGTH } = design;

class Matrix {
  readonly data: Float64Array;
  constructor(
    readonly rows: number,
    readonly columns: number,
  ) {
    this.data = new Float64Array(rows * columns);
  }
  set(row: number, column: number, value: number): void {
    this.data[row * this.columns + column] = toHalf(value);
  }
  tensor(name: string): Tensor {
    return { name, shape: [this.rows, this.columns], data: this.data };
  }
}

/** Root mean square of a token that carries `filledSlots` match codes. */
const rootMeanSquare = (filledSlots: number): number =>
  Math.sqrt((CONSTANT ** 2 + COPY_SIZE ** 2 + filledSlots) / HIDDEN_SIZE + design.RMS_NORM_EPS);

/** The same of BOS, which carries none and has 1 in the sink channel. */
const rootMeanSquareOfBos = (): number =>
  Math.sqrt((CONSTANT ** 2 + (COPY_SIZE / 16) ** 2 + 1) / HIDDEN_SIZE + design.RMS_NORM_EPS);

function embedding(): Tensor {
  const rows = new Matrix(design.VOCAB_SIZE, HIDDEN_SIZE);
  const match = matchCodes();
  const copy = copyCodes(257);
  const writeCopy = (id: number, code: readonly number[], size: number) =>
    code.forEach((sign, index) => {
      rows.set(id, COPY_CHANNEL + index, (sign * size) / 8);
    });
  for (let byte = 0; byte < 256; byte++) {
    writeCopy(byte, copy[byte]!, COPY_SIZE);
    match[byte]!.forEach((value, index) => {
      rows.set(byte, design.slotChannel(0) + index, value);
    });
  }
  // BOS means a little "end": all alone, or where neither head finds anything, the answer is empty.
  writeCopy(design.BOS_ID, copy[256]!, COPY_SIZE / 16);
  writeCopy(design.EOS_ID, copy[256]!, COPY_SIZE);
  rows.set(design.BOS_ID, design.SINK_CHANNEL, 1);
  for (let id = 0; id < design.VOCAB_SIZE; id++) rows.set(id, design.CONSTANT_CHANNEL, CONSTANT);
  return rows.tensor("model.embed_tokens.weight");
}

/** Norm weights that undo the norm (which is the same for every token) and bring the constant channel to 1. */
function inputNorm(filledSlots: number): Float64Array {
  const rms = rootMeanSquare(filledSlots);
  const weights = new Float64Array(HIDDEN_SIZE).fill(toHalf(rms));
  weights[design.CONSTANT_CHANNEL] = toHalf(rms / CONSTANT);
  return weights;
}

interface Projections {
  query: Matrix;
  key: Matrix;
  value: Matrix;
  output: Matrix;
}

const emptyProjections = (): Projections => ({
  query: new Matrix(design.HEADS * HEAD_DIM, HIDDEN_SIZE),
  key: new Matrix(HEAD_DIM, HIDDEN_SIZE),
  value: new Matrix(HEAD_DIM, HIDDEN_SIZE),
  output: new Matrix(HIDDEN_SIZE, design.HEADS * HEAD_DIM),
});

/** Heads that attend to exactly the token `offset` back, one offset per head: a constant key, and a query turned back. */
function attendToOffsets({ query, key }: Projections, offsets: readonly number[]): void {
  for (let pair = 0; pair < design.FAST_PAIRS; pair++) {
    key.set(pair, design.CONSTANT_CHANNEL, design.OFFSET_AMPLITUDE);
    offsets.forEach((offset, head) => {
      const angle = offset * design.pairFrequency(pair);
      const row = head * HEAD_DIM + pair;
      query.set(row, design.CONSTANT_CHANNEL, design.OFFSET_AMPLITUDE * Math.cos(angle));
      query.set(row + HEAD_DIM / 2, design.CONSTANT_CHANNEL, -design.OFFSET_AMPLITUDE * Math.sin(angle));
    });
  }
}

/** A sliding layer whose heads copy the first slots of the tokens they attend to. */
function offsetLayer({ groupSize, offsets }: design.OffsetLayer): Projections {
  const layer = emptyProjections();
  attendToOffsets(layer, offsets);
  const width = groupSize * CODE_DIM;
  for (let index = 0; index < width; index++) layer.value.set(index, design.slotChannel(0) + index, 1);
  offsets.forEach((offset, head) => {
    for (let index = 0; index < width; index++) {
      layer.output.set(design.slotChannel(offset) + index, head * HEAD_DIM + index, 1);
    }
  });
  return layer;
}

/** The last layer: both heads attend to the token itself, and the first adds its copy section to itself. */
function echoLayer(): Projections {
  const layer = emptyProjections();
  attendToOffsets(layer, [0, 0]);
  for (let index = 0; index < HEAD_DIM; index++) {
    layer.value.set(index, COPY_CHANNEL + index, 1);
    layer.output.set(COPY_CHANNEL + index, index, design.ECHO_WEIGHT);
  }
  return layer;
}

/** Two halves whose product is nearest to `target`. */
function factorInHalves(target: number): [number, number] {
  let best: [number, number] = [0, 0];
  for (let first = 512; first < 1024; first++) {
    const second = toHalf(target / first);
    if (Math.abs(first * second - target) < Math.abs(best[0] * best[1] - target)) best = [first, second];
  }
  return best;
}

/** The full layer: slots 0..15 of the query against slots 1..16 of the keys, and a copy of the byte found. */
function matchLayer(): Projections {
  const layer = emptyProjections();
  const { query, key, value, output } = layer;
  for (let index = 0; index < MATCH_LENGTH * CODE_DIM; index++) {
    const dimension = design.slowDimension(index);
    key.set(dimension, design.slotChannel(1) + index, design.MATCH_AMPLITUDE);
    query.set(dimension, design.slotChannel(0) + index, design.MATCH_AMPLITUDE);
    if (index < design.BACKOFF_LENGTH * CODE_DIM) {
      query.set(HEAD_DIM + dimension, design.slotChannel(0) + index, design.MATCH_AMPLITUDE);
    }
  }

  // BOS as the first head's way out, computed with the numbers as they are stored.
  const norm = inputNorm(MATCH_LENGTH + 1);
  const rms = rootMeanSquare(MATCH_LENGTH + 1);
  const slotGain = norm[design.slotChannel(0)]! / rms;
  const constantGain = (norm[design.CONSTANT_CHANNEL]! * CONSTANT) / rms;
  const sinkGain = norm[design.SINK_CHANNEL]! / rootMeanSquareOfBos();
  const exact = MATCH_LENGTH * (design.MATCH_AMPLITUDE * slotGain) ** 2;
  const sink = exact - design.SINK_MARGIN * Math.sqrt(HEAD_DIM);
  const [querySink, keySink] = factorInHalves(sink / (constantGain * sinkGain));
  query.set(design.SINK_PAIR, design.CONSTANT_CHANNEL, querySink);
  key.set(design.SINK_PAIR, design.SINK_CHANNEL, keySink);

  for (let index = 0; index < HEAD_DIM; index++) {
    value.set(index, COPY_CHANNEL + index, 1 / COPY_SIZE);
    design.COPY_WEIGHTS.forEach((weight, head) => {
      output.set(COPY_CHANNEL + index, head * HEAD_DIM + index, weight);
    });
  }
  return layer;
}

/** Every tensor of the model, in the order of the layers. */
export function buildTensors(): Tensor[] {
  const tensors = [embedding()];
  const vector = (name: string, data: Float64Array) => tensors.push({ name, shape: [data.length], data });
  const layers = [...design.OFFSET_LAYERS.map(offsetLayer), matchLayer(), echoLayer()];
  layers.forEach(({ query, key, value, output }, index) => {
    const prefix = `model.layers.${index}`;
    const filledSlots = design.OFFSET_LAYERS[index]?.offsets[0] ?? MATCH_LENGTH + 1;
    vector(`${prefix}.input_layernorm.weight`, inputNorm(filledSlots));
    tensors.push(query.tensor(`${prefix}.self_attn.q_proj.weight`));
    tensors.push(key.tensor(`${prefix}.self_attn.k_proj.weight`));
    tensors.push(value.tensor(`${prefix}.self_attn.v_proj.weight`));
    tensors.push(output.tensor(`${prefix}.self_attn.o_proj.weight`));
    vector(`${prefix}.post_attention_layernorm.weight`, new Float64Array(HIDDEN_SIZE).fill(1));
    tensors.push(new Matrix(design.INTERMEDIATE_SIZE, HIDDEN_SIZE).tensor(`${prefix}.mlp.gate_proj.weight`));
    tensors.push(new Matrix(design.INTERMEDIATE_SIZE, HIDDEN_SIZE).tensor(`${prefix}.mlp.up_proj.weight`));
    tensors.push(new Matrix(HIDDEN_SIZE, design.INTERMEDIATE_SIZE).tensor(`${prefix}.mlp.down_proj.weight`));
  });
  const finalNorm = new Float64Array(HIDDEN_SIZE);
  const outputWeight = toHalf((design.OUTPUT_SCALE / COPY_SIZE) * rootMeanSquare(MATCH_LENGTH + 1));
  finalNorm.fill(outputWeight, COPY_CHANNEL, COPY_CHANNEL + 64);
  vector("model.norm.weight", finalNorm);
  return tensors;
}
