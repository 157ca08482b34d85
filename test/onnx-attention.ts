/** Runs a case of the ONNX operator Attention through createAttention: 3-D inputs, past, masks and nonpad_kv_seqlen. */
import { allocate, read, release, upload } from "../src/gpu/buffers.ts";
import { createAttention } from "../src/kernels/attention.ts";
import type { AttentionOptions, AttentionTensors } from "../src/kernels/attention-types.ts";
import { toDtype } from "./attention-harness.ts";
import { decodeF16 } from "./f16.ts";

interface OnnxTensor {
  shape: number[];
  dtype: string;
  data: (number | string | boolean)[];
}

/** A case as the shared files hold it. */
export interface OnnxCase {
  name: string;
  attributes: Record<string, number>;
  node_inputs: string[];
  /** The outputs in the operator's order, each under a name of the node's own; "" for one that it leaves out. */
  node_outputs?: string[];
  inputs: Record<string, OnnxTensor>;
  outputs: Record<string, OnnxTensor>;
}

/** Parses a file of cases. @throws where it holds none. */
export function loadOnnxCases(text: string): OnnxCase[] {
  const parsed = JSON.parse(text) as OnnxCase[] | { cases: OnnxCase[] };
  const cases = Array.isArray(parsed) ? parsed : parsed.cases;
  if (!Array.isArray(cases) || cases.length === 0)
    throw new Error("expected a list of ONNX cases (or an object with the list `cases`), got none");
  return cases;
}

/** The operator's inputs in order; a node lists the names of its own for each. */
const INPUTS = ["Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen"] as const;

const numbers = (tensor: OnnxTensor): Float32Array<ArrayBuffer> =>
  Float32Array.from(tensor.data.flat(9) as unknown[], (x) =>
    x === "inf" ? Infinity : x === "-inf" ? -Infinity : x === "nan" ? Number.NaN : Number(x),
  );

/** Y, present_key and present_value as plain numbers. */
export type OnnxOutputs = Record<string, Float32Array>;

/** Runs one case. */
export async function runOnnxAttention(device: GPUDevice, onnxCase: OnnxCase): Promise<OnnxOutputs> {
  const { attributes } = onnxCase;
  const input = Object.fromEntries(
    INPUTS.map((name, index) => [name, onnxCase.inputs[onnxCase.node_inputs[index] ?? ""]]),
  ) as Partial<Record<(typeof INPUTS)[number], OnnxTensor>>;
  const { Q, K, V, attn_mask: maskTensor, past_key: pastKey, past_value: pastValue, nonpad_kv_seqlen: nonpad } = input;
  const is3d = Q!.shape.length === 3;
  const [batch] = Q!.shape as [number];
  const heads = is3d ? attributes.q_num_heads! : Q!.shape[1]!;
  const kvHeads = is3d ? attributes.kv_num_heads! : K!.shape[1]!;
  const seqLen = is3d ? Q!.shape[1]! : Q!.shape[2]!;
  const kvSeqLen = is3d ? K!.shape[1]! : K!.shape[2]!;
  const headDim = is3d ? Q!.shape[2]! / heads : Q!.shape[3]!;
  const valueDim = is3d ? V!.shape[2]! / kvHeads : V!.shape[3]!;
  const dtype = Q!.dtype === "f16" && device.features.has("shader-f16") ? "f16" : "f32";
  const isCausal = attributes.is_causal === 1;
  const pastLen = pastKey ? pastKey.shape[2]! : 0;
  const isBoolean = maskTensor?.dtype === "bool";
  const options: AttentionOptions = {
    ...{ heads, kvHeads, headDim, valueDim, dtype, isCausal, layout: is3d ? "bthd" : "bhtd", label: onnxCase.name },
    scale: attributes.scale || undefined,
    softcap: attributes.softcap ?? 0,
    mask: maskTensor ? (isBoolean ? "boolean" : "additive") : "none",
    hasKvLengths: nonpad !== undefined,
  };
  const buffers: GPUBuffer[] = [];
  const keep = async (promise: Promise<GPUBuffer>) => {
    const buffer = await promise;
    buffers.push(buffer);
    return buffer;
  };
  const put = (name: string, tensor: OnnxTensor) => keep(upload(device, name, toDtype(numbers(tensor), dtype)));
  const room = (name: string, elements: number) =>
    keep(allocate(device, { label: name, byteLength: elements * (dtype === "f16" ? 2 : 4) }));
  const counts = {
    Y: batch * seqLen * heads * valueDim,
    present_key: batch * (pastLen + kvSeqLen) * kvHeads * headDim,
    present_value: batch * (pastLen + kvSeqLen) * kvHeads * valueDim,
  };
  const tensors: AttentionTensors = {
    ...{ query: await put("Q", Q!), key: await put("K", K!), value: await put("V", V!), batch, seqLen, kvSeqLen },
    output: await room("Y", counts.Y),
  };
  if (maskTensor) {
    const data = isBoolean ? Uint8Array.from(numbers(maskTensor)) : numbers(maskTensor);
    const shape = [1, 1, ...maskTensor.shape].slice(-4);
    tensors.mask = { buffer: await keep(upload(device, "attn_mask", data)), shape, kvOrigin: 0 };
  }
  if (pastKey)
    tensors.past = {
      ...{ key: await put("past_key", pastKey), value: await put("past_value", pastValue!), seqLen: pastLen },
      layout: "bhtd",
      presentKey: await room("present_key", counts.present_key),
      presentValue: await room("present_value", counts.present_value),
    };
  if (nonpad) {
    // The last query stands at the last valid key: offset nonpad - T, below 0 for fewer keys than queries. Positions are
    // never negative, so that keys begin at T here.
    const lengths = Array.from(numbers(nonpad));
    const positions = lengths.flatMap((length) => Array.from({ length: seqLen }, (_, t) => length + t));
    tensors.kvLengths = await keep(
      upload(
        device,
        "lengths",
        Uint32Array.from(lengths, (length) => length + seqLen),
      ),
    );
    tensors.kvPositions = { start: seqLen };
    tensors.queryPositions = {
      positions: await keep(upload(device, "query positions", Uint32Array.from(positions))),
      perBatch: true,
    };
    if (tensors.mask) tensors.mask.kvOrigin = seqLen;
  }
  const attention = await createAttention(device, options);
  const encoder = device.createCommandEncoder();
  attention.encode(encoder, tensors);
  device.queue.submit([encoder.finish()]);
  const outputs: OnnxOutputs = {};
  const fetchOutput = async (name: keyof typeof counts, buffer: GPUBuffer) => {
    const bytes = await read(device, { buffer, byteLength: counts[name] * (dtype === "f16" ? 2 : 4) });
    outputs[name] = dtype === "f16" ? Float32Array.from(new Uint16Array(bytes), decodeF16) : new Float32Array(bytes);
  };
  await fetchOutput("Y", tensors.output as GPUBuffer);
  if (tensors.past) {
    await fetchOutput("present_key", tensors.past.presentKey as GPUBuffer);
    await fetchOutput("present_value", tensors.past.presentValue as GPUBuffer);
  }
  attention.destroy();
  buffers.forEach(release);
  return outputs;
}

/** The operator's outputs in order; the raw scores that may follow are nothing that a fused kernel has. */
const OUTPUTS = ["Y", "present_key", "present_value"] as const;

/**
 * What differs from the case's outputs by more than its element type allows; empty where all is well. Every output that the
 * node names must be in the case and among `outputs` (without a past, present is the input itself, and nobody computes it).
 */
export function onnxErrors(onnxCase: OnnxCase, outputs: OnnxOutputs): string[] {
  const problems: string[] = [];
  const hasPast = onnxCase.inputs[onnxCase.node_inputs[INPUTS.indexOf("past_key")] ?? ""] !== undefined;
  const nodeOutputs = onnxCase.node_outputs ?? OUTPUTS.map((name) => (onnxCase.outputs[name] ? name : ""));
  for (const [index, operatorName] of OUTPUTS.entries()) {
    const name = nodeOutputs[index] ?? "";
    if (index > 0 && (name === "" || !hasPast)) continue;
    const tensor = onnxCase.outputs[name];
    const got = outputs[operatorName];
    if (!tensor || !got) {
      problems.push(
        `${operatorName} ("${name}"): ${tensor ? "nothing was computed" : "the case expects nothing of it"}`,
      );
      continue;
    }
    const want = numbers(tensor);
    const [absolute, relative] = tensor.dtype === "f16" ? [1e-3, 1e-3] : [2e-6, 1e-5];
    if (got.length !== want.length) problems.push(`${operatorName}: ${got.length} elements, expected ${want.length}`);
    for (let i = 0; i < want.length; i++) {
      const limit = absolute + relative * Math.abs(want[i]!);
      if (!(Math.abs(got[i]! - want[i]!) <= limit)) {
        problems.push(`${operatorName}[${i}]: got ${got[i]}, expected ${want[i]}`);
        break;
      }
    }
  }
  return problems;
}
