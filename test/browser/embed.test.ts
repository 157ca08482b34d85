import { afterAll, beforeAll, expect, it } from "vitest";
import { read, release, upload } from "../../src/gpu/buffers.ts";
import { requestRingwiseDevice } from "../../src/gpu/device.ts";
import { createAdd } from "../../src/kernels/add.ts";
import { createArgmax } from "../../src/kernels/argmax.ts";
import { createEmbed } from "../../src/kernels/embed.ts";
import { randomTensor, readFloats, submit, uploadAt, zeros } from "../dense-harness.ts";

let device: GPUDevice;
beforeAll(async () => {
  device = await requestRingwiseDevice();
});
afterAll(() => device.destroy());

/** A device that says it binds at most `bytes` bytes, so that tables are cut. */
async function narrowDevice(bytes: number): Promise<GPUDevice> {
  const narrow = await (await navigator.gpu.requestAdapter())!.requestDevice();
  const limits = new Proxy(narrow.limits, {
    get: (target, name) => (name === "maxStorageBufferBindingSize" ? bytes : Reflect.get(target, name, target)),
  });
  Object.defineProperty(narrow, "limits", { value: limits });
  return narrow;
}

for (const weightDtype of ["f32", "f16", "bf16"] as const)
  it(`embed gathers exactly the rows of a ${weightDtype} table, whole or cut`, async () => {
    const [vocabSize, width, tokens] = [61, 27, 40];
    const table = randomTensor(vocabSize * width, weightDtype, 9);
    const ids = Uint32Array.from({ length: tokens }, (_, i) => (i * 37) % vocabSize);
    const want = Float32Array.from(
      { length: tokens * width },
      (_, i) => table.values[ids[Math.floor(i / width)]! * width + (i % width)]!,
    );
    const narrow = await narrowDevice(1024);
    for (const on of [device, narrow]) {
      const embed = await createEmbed(on, { weightDtype });
      const t = await uploadAt(on, "table", table.bytes, 3);
      const i = await upload(on, "ids", ids);
      const y = await zeros(on, "y", tokens * width);
      submit(on, (encoder) => embed.encode(encoder, { table: t, ids: i, output: y, tokens, vocabSize, width }));
      expect(await readFloats(on, y, tokens * width)).toEqual(want);
      for (const buffer of [t.buffer, i, y]) release(buffer);
    }
    narrow.destroy();
  });

it("embed leaves the row of an id outside of the vocabulary as it was", async () => {
  const embed = await createEmbed(device, { weightDtype: "f32" });
  const table = await upload(device, "table", Float32Array.of(1, 2, 3, 4));
  const ids = await upload(device, "ids", Uint32Array.of(1, 2, 0xffffffff));
  const y = await upload(device, "y", new Float32Array(6).fill(7));
  submit(device, (encoder) => embed.encode(encoder, { table, ids, output: y, tokens: 3, vocabSize: 2, width: 2 }));
  expect([...(await readFloats(device, y, 6))]).toEqual([3, 4, 7, 7, 7, 7]);
  const encode = () =>
    submit(device, (encoder) => embed.encode(encoder, { table, ids, output: y, tokens: 3, vocabSize: 3, width: 2 }));
  expect(encode).toThrow('embed: expected table of at least 24 bytes, got 16 ("table")');
  for (const buffer of [table, ids, y]) release(buffer);
});

it("argmax takes the first largest of each row, and never NaN", async () => {
  const width = 203;
  const rows = [0, 1, 2, 3, 4].map((row) => randomTensor(width, "f32", row).values);
  rows[1]![150] = 5;
  rows[1]![17] = 5;
  rows[2]![0] = Number.NaN;
  rows[2]![202] = 9;
  rows[3]!.fill(Number.NEGATIVE_INFINITY);
  rows[4]!.fill(-3e38);
  const input = new Float32Array(rows.flatMap((row) => [...row]));
  const x = await uploadAt(device, "x", input, 5);
  const y = await zeros(device, "y", 5);
  const argmax = await createArgmax(device);
  submit(device, (encoder) => argmax.encode(encoder, { input: x, output: y, rows: 5, width }));
  const got = new Uint32Array(await read(device, { buffer: y, byteLength: 20 }));
  const largest = rows[0]!.indexOf(Math.max(...rows[0]!));
  expect([...got]).toEqual([largest, 17, 202, 0, 0]);
  for (const buffer of [x.buffer, y]) release(buffer);
});

it("add adds to its output, element by element", async () => {
  const [a, b] = [randomTensor(101, "f32", 1).values, randomTensor(101, "f32", 2).values];
  const add = await createAdd(device);
  const x = await uploadAt(device, "x", a, 7);
  const y = await upload(device, "y", b);
  submit(device, (encoder) => add.encode(encoder, { input: x, output: y, count: 101 }));
  expect(await readFloats(device, y, 101)).toEqual(b.map((value, i) => Math.fround(value + a[i]!)));
  expect(() => submit(device, (encoder) => add.encode(encoder, { input: y, output: y, count: 1 }))).toThrow(
    "expected input and output in different buffers",
  );
  for (const buffer of [x.buffer, y]) release(buffer);
});
