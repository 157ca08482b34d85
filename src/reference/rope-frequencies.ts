/**
 * Rotary embedding's frequencies as Hugging Face's `config.json` asks for them, in float64: default, linear
 * ("position interpolation", arXiv 2306.15595), dynamic NTK, YaRN (arXiv 2309.00071) and llama3.
 */

/** The fields of `config.json` that say how positions are rotated. */
export interface RopeConfig {
  head_dim?: number;
  max_position_embeddings?: number;
  rope_theta?: number;
  partial_rotary_factor?: number;
  rope_scaling?: Readonly<Record<string, unknown>> | null;
}

/** Angles per position (radians), `[D/2]`, and what cos and sin are multiplied with. */
export interface RopeFrequencies {
  frequencies: Float64Array;
  attentionFactor: number;
}

/**
 * The frequencies for a context of `ropeLength` tokens (dynamic NTK alone depends on it).
 * @throws {Error} for a scaling type it does not know.
 */
export function ropeFrequencies(config: RopeConfig, headDim: number, ropeLength: number): RopeFrequencies {
  const scaling = config.rope_scaling ?? {};
  const number = (name: string, fallback: number) => (scaling[name] as number | undefined) ?? fallback;
  const dim = Math.floor(headDim * (config.partial_rotary_factor ?? 1));
  const theta = config.rope_theta ?? 10000;
  const longest = config.max_position_embeddings ?? 2048;
  const factor = number("factor", 1);
  const plain = (base: number) => Float64Array.from({ length: dim / 2 }, (_, i) => base ** ((-2 * i) / dim));
  const type = scaling.rope_type ?? scaling.type ?? "default";
  switch (type) {
    case "default":
      return { frequencies: plain(theta), attentionFactor: 1 };
    case "linear":
      return { frequencies: plain(theta).map((f) => f / factor), attentionFactor: 1 };
    case "dynamic": {
      const length = Math.max(ropeLength, longest);
      const base = theta * ((factor * length) / longest - (factor - 1)) ** (dim / (dim - 2));
      return { frequencies: plain(base), attentionFactor: 1 };
    }
    case "llama3": {
      const original = number("original_max_position_embeddings", longest);
      const [low, high] = [number("low_freq_factor", 1), number("high_freq_factor", 4)];
      const frequencies = plain(theta).map((f) => {
        const turns = (original * f) / (2 * Math.PI);
        if (turns < low) return f / factor;
        if (turns > high) return f;
        const smooth = (turns - low) / (high - low);
        return ((1 - smooth) * f) / factor + smooth * f;
      });
      return { frequencies, attentionFactor: 1 };
    }
    case "yarn": {
      const original = number("original_max_position_embeddings", longest);
      // The dimension whose frequency makes `turns` turns within the original context.
      const dimensionOf = (turns: number) => (dim * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
      const truncate = scaling.truncate !== false;
      const first = dimensionOf(number("beta_fast", 32));
      const last = dimensionOf(number("beta_slow", 1));
      const low = Math.max(truncate ? Math.floor(first) : first, 0);
      let high = Math.min(truncate ? Math.ceil(last) : last, dim - 1);
      if (high === low) high += 0.001;
      const frequencies = plain(theta).map((f, i) => {
        const interpolated = Math.min(1, Math.max(0, (i - low) / (high - low)));
        return (f / factor) * interpolated + f * (1 - interpolated);
      });
      const magnitude = (scale: number, by = 1) => (scale <= 1 ? 1 : 0.1 * by * Math.log(scale) + 1);
      const [mscale, mscaleAll] = [number("mscale", 0), number("mscale_all_dim", 0)];
      const implied =
        mscale && mscaleAll ? magnitude(factor, mscale) / magnitude(factor, mscaleAll) : magnitude(factor);
      return { frequencies, attentionFactor: number("attention_factor", implied) };
    }
  }
  throw new Error(`reference: no rope scaling ${String(type)}`);
}

/** cos and sin `[D/2]` of one position. */
export function ropeTable(
  config: RopeConfig,
  headDim: number,
  position: number,
  ropeLength: number,
): { cos: Float64Array; sin: Float64Array } {
  const { frequencies, attentionFactor } = ropeFrequencies(config, headDim, ropeLength);
  return {
    cos: frequencies.map((f) => Math.cos(position * f) * attentionFactor),
    sin: frequencies.map((f) => Math.sin(position * f) * attentionFactor),
  };
}
