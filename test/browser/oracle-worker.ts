/** The oracle in a worker of its own, so that both precisions and the GPU work side by side. */
import { LlamaReference, type ReferenceConfig } from "../../src/reference/llama.ts";

/** What the worker is sent; it answers with the logits, as {@link LlamaReference.forward} gives them. */
export interface OracleJob {
  config: ReferenceConfig;
  weights: ReadonlyMap<string, Float32Array>;
  ids: readonly number[];
  precision: "f64" | "f32";
}

self.onmessage = ({ data }: MessageEvent<OracleJob>) =>
  self.postMessage(new LlamaReference(data.config, data.weights, data.precision).forward(data.ids));
