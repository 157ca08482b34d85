/** Writes ONNX model files: a graph in plain words in, the bytes of a `.onnx` file out. */
import { create, toBinary } from "@bufbuild/protobuf";
import { ATTRIBUTE_TYPES, DATA_TYPES, EXTERNAL_LOCATION, MODEL_PROTO } from "./schema.ts";

/** Element type of a tensor. */
export type OnnxDtype = keyof typeof DATA_TYPES;

/** An attribute with its kind: ONNX tells 1 from 1.0. */
export type OnnxAttribute =
  | { int: number }
  | { float: number }
  | { string: string }
  | { ints: readonly number[] }
  | { floats: readonly number[] };

/** A graph input or output; a dimension with a name (`"tokens"`) is known only when the model runs. */
export interface OnnxValue {
  name: string;
  dtype: OnnxDtype;
  dims: readonly (number | string)[];
}

/** A constant of the graph: its values in the file itself (`data`), or in a file beside it (`external`). */
export interface OnnxInitializer {
  name: string;
  dtype: OnnxDtype;
  dims: readonly number[];
  /** The values as they lie in memory, little-endian. */
  data?: ArrayBufferView;
  external?: { path: string; byteOffset: number; byteLength: number };
}

/** One operator. An input named "" is one that is left out. */
export interface OnnxNode {
  op: string;
  /** Absent: the operators of ONNX itself. */
  domain?: string;
  name?: string;
  inputs: readonly string[];
  outputs: readonly string[];
  attributes?: Readonly<Record<string, OnnxAttribute>>;
}

/** A model: nodes in an order in which each finds its inputs made. */
export interface OnnxModel {
  name: string;
  inputs: readonly OnnxValue[];
  outputs: readonly OnnxValue[];
  initializers?: readonly OnnxInitializer[];
  nodes: readonly OnnxNode[];
  /** Version of each domain's operators; "" is ONNX itself. Absent: {@link DEFAULT_OPSETS}. */
  opsets?: Readonly<Record<string, number>>;
}

/** ONNX's own operators, and onnxruntime's (MultiHeadAttention, GroupQueryAttention, ...). */
export const DEFAULT_OPSETS = { "": 21, "com.microsoft": 1 } as const;

/** The file format of ONNX 1.16, which opset 21 belongs to. */
const IR_VERSION = 10;

const BYTES_PER_ELEMENT = { f32: 4, u8: 1, i32: 4, i64: 8, bool: 1, f16: 2 } as const satisfies Record<
  OnnxDtype,
  number
>;

function attributeMessage(name: string, attribute: OnnxAttribute): object {
  if ("int" in attribute) return { name, type: ATTRIBUTE_TYPES.int, i: BigInt(attribute.int) };
  if ("float" in attribute) return { name, type: ATTRIBUTE_TYPES.float, f: attribute.float };
  if ("string" in attribute)
    return { name, type: ATTRIBUTE_TYPES.string, s: new TextEncoder().encode(attribute.string) };
  if ("ints" in attribute) return { name, type: ATTRIBUTE_TYPES.ints, ints: attribute.ints.map(BigInt) };
  return { name, type: ATTRIBUTE_TYPES.floats, floats: attribute.floats };
}

function initializerMessage({ name, dtype, dims, data, external }: OnnxInitializer): object {
  const byteLength = dims.reduce((product, size) => product * size, BYTES_PER_ELEMENT[dtype]);
  const given = data?.byteLength ?? external?.byteLength;
  if (given !== byteLength || (data && external))
    throw new RangeError(
      `encodeOnnxModel: expected initializer "${name}" (${dtype}, [${dims.join(", ")}]) with ${byteLength} bytes in data or external, got ${given ?? "none"}`,
    );
  const message = { name, dims: dims.map(BigInt), dataType: DATA_TYPES[dtype] };
  if (data) return { ...message, rawData: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
  const { path, byteOffset } = external!;
  const entries = { location: path, offset: byteOffset, length: byteLength };
  const externalData = Object.entries(entries).map(([key, value]) => ({ key, value: String(value) }));
  return { ...message, externalData, dataLocation: EXTERNAL_LOCATION };
}

const valueMessage = ({ name, dtype, dims }: OnnxValue): object => ({
  name,
  type: {
    tensorType: {
      elemType: DATA_TYPES[dtype],
      shape: { dim: dims.map((dim) => (typeof dim === "number" ? { dimValue: BigInt(dim) } : { dimParam: dim })) },
    },
  },
});

function checkNames({ inputs, outputs, initializers = [], nodes }: OnnxModel): void {
  const made = new Set(["", ...[...inputs, ...initializers].map(({ name }) => name)]);
  const expectMade = (user: string, name: string) => {
    if (!made.has(name))
      throw new RangeError(`encodeOnnxModel: expected "${name}" to be made before ${user} reads it, got no such value`);
  };
  for (const node of nodes) {
    for (const name of node.inputs) expectMade(`node ${node.name ?? node.op}`, name);
    for (const name of node.outputs) made.add(name);
  }
  for (const { name } of outputs) expectMade("the graph's output", name);
}

/**
 * The bytes of a model file.
 * @throws {RangeError} where a node reads what nobody has made, or an initializer's bytes are not its shape's.
 */
export function encodeOnnxModel(model: OnnxModel): Uint8Array<ArrayBuffer> {
  checkNames(model);
  const { name, inputs, outputs, initializers = [], nodes, opsets = DEFAULT_OPSETS } = model;
  const message = create(MODEL_PROTO, {
    irVersion: BigInt(IR_VERSION),
    producerName: "ringwise bench",
    opsetImport: Object.entries(opsets).map(([domain, version]) => ({ domain, version: BigInt(version) })),
    graph: {
      name,
      node: nodes.map(({ op, domain = "", name = "", inputs, outputs, attributes = {} }) => ({
        ...{ opType: op, domain, name, input: inputs, output: outputs },
        attribute: Object.entries(attributes).map(([key, value]) => attributeMessage(key, value)),
      })),
      initializer: initializers.map(initializerMessage),
      input: inputs.map(valueMessage),
      output: outputs.map(valueMessage),
    },
  });
  return toBinary(MODEL_PROTO, message);
}
