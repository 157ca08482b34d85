/** The writer of ONNX files: what it writes is what the format says, read back by the protobuf library and by hand. */
import { fromBinary, toJson } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { type LlamaShape, llamaModel, transpose, weightFile } from "../../bench/onnx/llama-model.ts";
import { encodeOnnxModel, type OnnxModel } from "../../bench/onnx/model-file.ts";
import { MODEL_PROTO } from "../../bench/onnx/schema.ts";

const TINY: OnnxModel = {
  name: "g",
  inputs: [{ name: "x", dtype: "f32", dims: [2, "n"] }],
  outputs: [{ name: "y", dtype: "f32", dims: [2, "n"] }],
  initializers: [{ name: "c", dtype: "f16", dims: [1], data: new Uint8Array([0, 0x3c]) }],
  nodes: [{ op: "Mul", inputs: ["x", "c"], outputs: ["y"], attributes: { axis: { int: 0 } } }],
  opsets: { "": 21 },
};

const SHAPE: LlamaShape = {
  ...{ hiddenSize: 8, intermediateSize: 12, layerCount: 2, heads: 2, kvHeads: 1, headDim: 4, vocabSize: 10 },
  ...{ rmsNormEps: 1e-5, ropeTheta: 10_000, tieWordEmbeddings: true },
};

interface GraphJson {
  node: { opType: string; input: string[]; output: string[] }[];
  initializer: { name: string; dims: string[]; externalData?: { key: string; value: string }[] }[];
  input: { name: string }[];
  output: { name: string }[];
}

const graphOf = (bytes: Uint8Array): GraphJson =>
  (toJson(MODEL_PROTO, fromBinary(MODEL_PROTO, bytes)) as unknown as { graph: GraphJson }).graph;

describe("encodeOnnxModel", () => {
  it("writes the bytes that the format prescribes", () => {
    const text = (value: string) => [value.length, ...new TextEncoder().encode(value)];
    const message = (tag: number, ...body: number[]) => [tag, body.length, ...body];
    const value = (name: string) => [
      ...[0x0a, ...text(name)],
      // type: tensor_type: elem_type 1, shape: dim 2, dim "n"
      ...message(0x12, ...message(0x0a, 0x08, 1, ...message(0x12, 0x0a, 2, 0x08, 2, 0x0a, 3, 0x12, ...text("n")))),
    ];
    const node = [0x0a, ...text("x"), 0x0a, ...text("c"), 0x12, ...text("y"), 0x1a, 0, 0x22, ...text("Mul")];
    // name, i, type INT (field 20 takes two bytes of tag); then the node's domain.
    node.push(...message(0x2a, 0x0a, ...text("axis"), 0x18, 0, 0xa0, 0x01, 2), 0x3a, 0);
    const initializer = [0x08, 1, 0x10, 10, 0x42, ...text("c"), 0x4a, 2, 0, 0x3c];
    const graph = [
      ...message(0x0a, ...node),
      ...[0x12, ...text("g")],
      ...message(0x2a, ...initializer),
      ...message(0x5a, ...value("x")),
      ...message(0x62, ...value("y")),
    ];
    const opset = [0x0a, 0, 0x10, 21];
    expect([...encodeOnnxModel(TINY)]).toEqual([
      ...[0x08, 10, 0x12, ...text("ringwise bench")],
      ...message(0x3a, ...graph),
      ...message(0x42, ...opset),
    ]);
  });

  it("refuses a value that nobody makes, and bytes that are not the shape's", () => {
    const nodes = [{ op: "Mul", inputs: ["x", "d"], outputs: ["y"] }];
    expect(() => encodeOnnxModel({ ...TINY, nodes })).toThrow('expected "d" to be made before node Mul reads it');
    const initializers = [{ name: "c", dtype: "f32" as const, dims: [2, 3], data: new Float32Array(5) }];
    expect(() => encodeOnnxModel({ ...TINY, initializers })).toThrow(
      'expected initializer "c" (f32, [2, 3]) with 24 bytes in data or external, got 20',
    );
  });
});

describe("llamaModel", () => {
  it("reads every weight of the model, matrices transposed, a tied embedding both ways", () => {
    const { model, weights } = llamaModel(SHAPE, 16);
    const graph = graphOf(model);
    const names = new Set(weights.map(({ source }) => source));
    expect(names.size).toBe(1 + 2 * 9 + 1);
    const embedding = weights.filter(({ source }) => source === "model.embed_tokens.weight");
    expect(embedding.map(({ isTransposed }) => isTransposed)).toEqual([false, true]);
    const down = graph.initializer.find(({ name }) => name === "model.layers.1.mlp.down_proj.weight.transposed")!;
    expect(down.dims).toEqual(["12", "8"]);
    expect(down.externalData).toContainEqual({ key: "length", value: String(12 * 8 * 4) });
    expect(graph.output.map(({ name }) => name)).toEqual([
      "logits",
      ...["present.0.key", "present.0.value", "present.1.key", "present.1.value"],
    ]);
  });

  it("leaves rope to attention where the head's size allows it, else makes it a node", () => {
    const ropes = (headDim: number) =>
      graphOf(llamaModel({ ...SHAPE, headDim }, 16).model).node.filter(({ opType }) => opType === "RotaryEmbedding");
    expect(ropes(16)).toHaveLength(0);
    expect(ropes(8)).toHaveLength(4);
  });

  it("transposes matrices of any size", () => {
    const [rows, columns] = [33, 70];
    const values = Float32Array.from({ length: rows * columns }, (_, index) => index);
    const transposed = transpose(values, rows, columns);
    for (const [row, column] of [
      [0, 69],
      [32, 0],
      [31, 32],
    ] as const)
      expect(transposed[column * rows + row]).toBe(values[row * columns + column]);
    expect(weightFile({ path: "", source: "", shape: [rows, columns], isTransposed: true }, values)).toEqual(
      transposed,
    );
  });
});
