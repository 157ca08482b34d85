/** The oracle of the feed-forward layer, whole, without chunks. T tokens, C hiddenSize, F intermediateSize. */
import { type ReferenceActivation, referenceActivation, referenceMatmul } from "./matmul.ts";
import { type Precision, roundTo } from "./precision.ts";

/** A call of the oracle. */
export interface ReferenceMlp {
  /** `[T, C]` */
  input: ArrayLike<number>;
  /** `[F, C]`; absent: not gated. */
  gate?: ArrayLike<number>;
  /** `[F, C]` */
  up: ArrayLike<number>;
  /** `[C, F]` */
  down: ArrayLike<number>;
  gateBias?: ArrayLike<number>;
  upBias?: ArrayLike<number>;
  downBias?: ArrayLike<number>;
  /** `[T, C]`, added to the result. */
  residual?: ArrayLike<number>;
  activation: ReferenceActivation;
  tokens: number;
  hiddenSize: number;
  intermediateSize: number;
}

/** `down(activation(gate(x)) * up(x))`, or without a gate `down(activation(up(x)))`; `[T, C]`. */
export function referenceMlp(call: ReferenceMlp, precision: Precision = "f64"): Float64Array | Float32Array {
  const { input, tokens: rows, hiddenSize, intermediateSize } = call;
  const round = roundTo(precision);
  const sizes = { rows, inFeatures: hiddenSize, outFeatures: intermediateSize };
  const act = (x: number) => referenceActivation(call.activation, x, precision);
  const up = referenceMatmul({ input, weight: call.up, bias: call.upBias, ...sizes }, precision);
  let inner = up.map(act);
  if (call.gate) {
    const gate = referenceMatmul({ input, weight: call.gate, bias: call.gateBias, ...sizes }, precision);
    inner = gate.map((x, i) => round(act(x) * up[i]!));
  }
  return referenceMatmul(
    {
      ...{ input: inner, weight: call.down, bias: call.downBias, residual: call.residual },
      ...{ rows, inFeatures: intermediateSize, outFeatures: hiddenSize },
    },
    precision,
  );
}
