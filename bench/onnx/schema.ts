/**
 * The messages of an ONNX model file, as far as we write them: names and field numbers of ONNX's protocol buffers
 * (https://onnx.ai/onnx/api/classes.html, "Protos"). Readers skip what they do not know, so that a part of the schema is enough.
 */
import { createFileRegistry, fromJson, type JsonObject } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";

/** Element types by their numbers in `TensorProto.DataType`. */
export const DATA_TYPES = { f32: 1, u8: 2, i32: 6, i64: 7, bool: 9, f16: 10 } as const;

/** Kinds of attribute by their numbers in `AttributeProto.AttributeType`. */
export const ATTRIBUTE_TYPES = { float: 1, int: 2, string: 3, floats: 6, ints: 7 } as const;

/** `TensorProto.DataLocation`: values stand in another file. */
export const EXTERNAL_LOCATION = 1;

/** Fields as `name: [number, type]`, with a third entry where there may be many; a type in capitals is a message's. */
type Fields = Readonly<Record<string, readonly [number, string] | readonly [number, string, "many"]>>;

const MESSAGES: Readonly<Record<string, Fields>> = {
  ModelProto: {
    irVersion: [1, "int64"],
    producerName: [2, "string"],
    graph: [7, "GraphProto"],
    opsetImport: [8, "OperatorSetIdProto", "many"],
  },
  OperatorSetIdProto: { domain: [1, "string"], version: [2, "int64"] },
  GraphProto: {
    node: [1, "NodeProto", "many"],
    name: [2, "string"],
    initializer: [5, "TensorProto", "many"],
    input: [11, "ValueInfoProto", "many"],
    output: [12, "ValueInfoProto", "many"],
  },
  NodeProto: {
    input: [1, "string", "many"],
    output: [2, "string", "many"],
    name: [3, "string"],
    opType: [4, "string"],
    attribute: [5, "AttributeProto", "many"],
    domain: [7, "string"],
  },
  AttributeProto: {
    name: [1, "string"],
    f: [2, "float"],
    i: [3, "int64"],
    s: [4, "bytes"],
    floats: [7, "float", "many"],
    ints: [8, "int64", "many"],
    type: [20, "int32"],
  },
  TensorProto: {
    dims: [1, "int64", "many"],
    dataType: [2, "int32"],
    name: [8, "string"],
    rawData: [9, "bytes"],
    externalData: [13, "StringStringEntryProto", "many"],
    dataLocation: [14, "int32"],
  },
  StringStringEntryProto: { key: [1, "string"], value: [2, "string"] },
  ValueInfoProto: { name: [1, "string"], type: [2, "TypeProto"] },
  TypeProto: { tensorType: [1, "TensorTypeProto"] },
  TensorTypeProto: { elemType: [1, "int32"], shape: [2, "TensorShapeProto"] },
  TensorShapeProto: { dim: [1, "DimensionProto", "many"] },
  DimensionProto: { dimValue: [1, "int64"], dimParam: [2, "string"] },
};

function fieldJson([name, [number, type, many]]: [string, Fields[string]]): JsonObject {
  const isMessage = type in MESSAGES;
  return {
    ...{ name, jsonName: name, number, label: many ? "LABEL_REPEATED" : "LABEL_OPTIONAL" },
    ...(isMessage ? { type: "TYPE_MESSAGE", typeName: `.onnx.${type}` } : { type: `TYPE_${type.toUpperCase()}` }),
  };
}

const registry = createFileRegistry(
  fromJson(FileDescriptorProtoSchema, {
    ...{ name: "onnx", package: "onnx", syntax: "proto2" },
    messageType: Object.entries(MESSAGES).map(([name, fields]) => ({
      name,
      field: Object.entries(fields).map(fieldJson),
    })),
  }),
  () => undefined,
);

/** The message that a whole file holds. */
export const MODEL_PROTO = registry.getMessage("onnx.ModelProto")!;
