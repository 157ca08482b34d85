/** Sources with the browser's own parts: Cache API, folder handles, File objects, and the test server as an address. */
import { afterAll, expect, test } from "vitest";
import { parseModelConfig } from "../../src/model/config.ts";
import { parseJsonObject } from "../../src/model/json.ts";
import { matchTensors, readTensorList, SINGLE_FILE } from "../../src/model/safetensors.ts";
import { openHub } from "../../src/model/source-hub.ts";
import { openModelSource } from "../../src/model/sources.ts";
import { streamTensors } from "../../src/model/tensor-stream.ts";
import { loadTokenizer } from "../../src/model/tokenizer.ts";
import type { ModelFiles } from "../../src/model/types.ts";

const folder = `/@fs${__SHARED__}/models/stories260K/`;
const hasShared = (await fetch(`${folder}golden.json`)).ok;
if (!hasShared) console.warn(`SKIPPED: sources in the browser need ${folder}, which is absent`);

const NAMES = ["config.json", "tokenizer.json", "tokenizer_config.json", SINGLE_FILE];
const bytesOf = async (name: string) => new Uint8Array(await (await fetch(folder + name)).arrayBuffer());

/** Everything that loading reads, and a sum over the weights' bytes. */
async function digest(files: ModelFiles): Promise<string> {
  const config = parseModelConfig(parseJsonObject("config.json", await files.read("config.json")));
  const tokenizer = await loadTokenizer(files, { vocabSize: config.vocabSize });
  const tensors = matchTensors(config, await readTensorList(files));
  let sum = 0;
  let count = 0;
  for await (const { bytes } of streamTensors(files, tensors, { readByteLength: 100_000 })) {
    for (const byte of bytes) sum = (Math.imul(sum, 31) + byte) | 0;
    count += bytes.byteLength;
  }
  return `${tensors.length} tensors, ${count} bytes, ${sum}, ${tokenizer.encode("Once upon a time")}`;
}

const EXPECTED = "47 tensors, 1040128 bytes";
const cacheName = "ringwise:main";
afterAll(() => caches.delete(cacheName));

test.skipIf(!hasShared)("an address, File objects and a folder's handle give one and the same model", async () => {
  const fromAddress = await digest(await openModelSource(folder));
  expect(fromAddress).toContain(EXPECTED);
  const list = await Promise.all(NAMES.map(async (name) => new File([await bytesOf(name)], name)));
  expect(await digest(await openModelSource(list))).toBe(fromAddress);

  const root = await navigator.storage.getDirectory();
  const handle = await root.getDirectoryHandle("stories", { create: true });
  try {
    for (const name of NAMES) {
      const writable = await (await handle.getFileHandle(name, { create: true })).createWritable();
      await writable.write(await bytesOf(name));
      await writable.close();
    }
    const files = await openModelSource(handle);
    expect(await digest(files)).toBe(fromAddress);
    expect(await files.size("generation_config.json")).toBeUndefined();
    expect(await files.size("no/such/folder.json")).toBeUndefined();
  } finally {
    await root.removeEntry("stories", { recursive: true });
  }
});

test.skipIf(!hasShared)("a hub's model is kept by the browser, and loads again without a connection", async () => {
  const asked: string[] = [];
  /** A hub in a function: the files of the folder, by range, with an ETag. */
  const hub = async (input: RequestInfo | URL, init?: RequestInit): Promise<Response> => {
    const name = new URL(String(input)).pathname.replace("/owner/stories/resolve/main/", "");
    asked.push(name);
    if (!NAMES.includes(name))
      return new Response("none", { status: 404, headers: { "X-Error-Code": "EntryNotFound" } });
    const bytes = await bytesOf(name);
    const [start, end] = /(\d+)-(\d+)/.exec(new Headers(init?.headers).get("range")!)!.slice(1).map(Number);
    const headers = { etag: '"v1"', "content-range": `bytes ${start}-${end}/${bytes.byteLength}` };
    return new Response(bytes.subarray(start, end! + 1), { status: 206, headers });
  };
  const options = { hubUrl: "https://hub.invalid", retryDelayMs: 1 };
  const first = await digest(await openHub("owner/stories", { ...options, fetch: hub as typeof fetch }));
  expect(first).toContain(EXPECTED);
  expect(asked.length).toBeGreaterThan(NAMES.length);
  expect(await caches.has(cacheName)).toBe(true);

  const none = () => Promise.reject(new TypeError("Failed to fetch"));
  expect(await digest(await openHub("owner/stories", { ...options, fetch: none, attempts: 1 }))).toBe(first);
});
