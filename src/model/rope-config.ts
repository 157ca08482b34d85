/**
 * Rotary position embedding as a config.json describes it: `rope_theta` with `rope_scaling`, or `rope_parameters` (the
 * newer form of both in one). Sources: RoFormer (arXiv 2104.09864), YaRN (arXiv 2309.00071), Llama 3.1's scaling.
 */
import { ModelFormatError, UnsupportedModelError } from "../errors.ts";
import type { RopeScaling } from "../kernels/rope-tables.ts";
import { describeJson, Fields, isJsonObject } from "./json.ts";

/** What the kernels' angle tables are made from. */
export type RopeConfig = RopeScaling;

/** YaRN's attention temperature as a factor on cos and sin (section 3.4 of the paper; mscale as DeepSeek uses it). */
const yarnMscale = (factor: number, mscale = 1): number => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);

const MAX_POSITIONS = 2 ** 40;

/** The object that describes the scaling, with its name for messages. */
function scalingFields(config: Fields): { name: string; fields: Fields } | undefined {
  for (const name of ["rope_parameters", "rope_scaling"]) {
    const value = config.get(name);
    if (value === undefined) continue;
    if (!isJsonObject(value)) return config.refuse(name, "an object");
    return { name, fields: new Fields(`${config.where}: ${name}`, value) };
  }
  return undefined;
}

/**
 * The rope of a model.
 * @throws {UnsupportedModelError} for a type other than those above (longrope, mrope, ...), partial rotary dimensions, or
 *   parameters per layer type.
 * @throws {ModelFormatError} for a field that is missing or malformed.
 */
export function parseRopeConfig(config: Fields, maxPositions: number): RopeConfig {
  const scaling = scalingFields(config);
  const none = new Fields(config.where, {});
  const fields = scaling?.fields ?? none;
  for (const layerType of ["full_attention", "sliding_attention"])
    if (fields.has(layerType))
      throw new UnsupportedModelError(
        `${config.where}: ${scaling?.name} per layer type ("${layerType}") is not supported: expected one set of parameters for all layers`,
      );
  for (const holder of [config, fields])
    if (holder.has("partial_rotary_factor") && holder.number("partial_rotary_factor", 0, true) !== 1)
      throw new UnsupportedModelError(
        `${config.where}: partial_rotary_factor ${describeJson(holder.get("partial_rotary_factor"))} is not supported: expected 1 (all dimensions rotate)`,
      );
  const theta = (fields.has("rope_theta") ? fields : config).number("rope_theta", 0, true, 10_000);
  const type = fields.string("rope_type") ?? fields.string("type") ?? "default";
  const factor = () => fields.number("factor", 1, false);
  const originalMaxPositions = (fallback?: number) =>
    fields.integer(
      "original_max_position_embeddings",
      1,
      MAX_POSITIONS,
      config.has("original_max_position_embeddings")
        ? config.integer("original_max_position_embeddings", 1, MAX_POSITIONS)
        : fallback,
    );
  switch (type) {
    case "default":
      return { type, theta };
    case "linear":
      return { type, theta, factor: factor() };
    case "dynamic":
      return { type, theta, factor: factor(), originalMaxPositions: originalMaxPositions(maxPositions) };
    case "yarn": {
      const scale = factor();
      const betaFast = fields.number("beta_fast", 0, true, 32);
      const betaSlow = fields.number("beta_slow", 0, true, 1);
      if (betaFast < betaSlow)
        throw new ModelFormatError(
          `${fields.where}: expected beta_fast to be at least beta_slow (${betaSlow}), got ${betaFast}`,
        );
      // mscale counts only where both of its fields are given and not 0, as in the reference implementation.
      const mscale = fields.number("mscale", 0, false, 0);
      const mscaleAllDim = fields.number("mscale_all_dim", 0, false, 0);
      const attentionFactor =
        mscale && mscaleAllDim ? yarnMscale(scale, mscale) / yarnMscale(scale, mscaleAllDim) : yarnMscale(scale);
      return {
        type,
        theta,
        factor: scale,
        originalMaxPositions: originalMaxPositions(maxPositions),
        attentionFactor: fields.number("attention_factor", 0, true, attentionFactor),
        betaFast,
        betaSlow,
        truncate: fields.boolean("truncate", true),
      };
    }
    case "llama3": {
      const lowFreqFactor = fields.number("low_freq_factor", 0, true);
      const highFreqFactor = fields.number("high_freq_factor", 0, true);
      if (highFreqFactor <= lowFreqFactor)
        throw new ModelFormatError(
          `${fields.where}: expected high_freq_factor to be above low_freq_factor (${lowFreqFactor}), got ${highFreqFactor}`,
        );
      return {
        type,
        theta,
        factor: factor(),
        lowFreqFactor,
        highFreqFactor,
        originalMaxPositions: originalMaxPositions(maxPositions),
      };
    }
    default:
      throw new UnsupportedModelError(
        `${fields.where}: rope type ${describeJson(type)} is not supported: expected default, linear, dynamic, yarn or llama3`,
      );
  }
}
