/** Sources: servers with and without ranges, servers that cut, lie, stall and fail, the hub (a small copy of it), caches, files and folders. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { openFolder } from "../../src/cli/folder-source.ts";
import { ModelFormatError, ModelSourceError, OptionError } from "../../src/errors.ts";
import { readTensorList, SINGLE_FILE } from "../../src/model/safetensors.ts";
import { CACHE_PIECE_BYTE_LENGTH, type CacheLike } from "../../src/model/source-cache.ts";
import { openDirectory, openFiles, sourceFromDrop } from "../../src/model/source-files.ts";
import { openUrl } from "../../src/model/source-http.ts";
import { isHubId, openHub } from "../../src/model/source-hub.ts";
import { openModelSource } from "../../src/model/sources.ts";
import { streamTensors } from "../../src/model/tensor-stream.ts";
import type { ModelFiles } from "../../src/model/types.ts";
import { packTensors } from "./model-files.ts";

if (!existsSync(`${__SHARED__}/models`)) console.warn(`SKIPPED: some tests need ${__SHARED__}/models, which is absent`);

const content = (length: number, seed = 1) => Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) * seed) & 255);
const fast = { retryDelayMs: 1, attempts: 3, stallMs: 2000 };

/** What the server does with the request to come; the default behaves. */
type Behaviour = (request: IncomingMessage, response: ServerResponse, bytes: Uint8Array) => boolean;

let server: Server;
let base: URL;
const contents = new Map<string, Uint8Array>();
const requests: { path: string; range?: string; method?: string; authorization?: string }[] = [];
let behave: Behaviour = () => false;

/** A server with ranges, as most are. */
function answer(request: IncomingMessage, response: ServerResponse, bytes: Uint8Array): void {
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
  const start = range ? Number(range[1]) : 0;
  if (range && start >= bytes.byteLength) {
    response.writeHead(416, { "content-range": `bytes */${bytes.byteLength}` }).end();
    return;
  }
  const end = Math.min(bytes.byteLength, range?.[2] ? Number(range[2]) + 1 : bytes.byteLength);
  response.writeHead(range ? 206 : 200, {
    "content-length": end - start,
    "content-type": "application/octet-stream",
    ...(range ? { "content-range": `bytes ${start}-${end - 1}/${bytes.byteLength}` } : {}),
  });
  response.end(request.method === "HEAD" ? undefined : bytes.subarray(start, end));
}

/** A server without ranges: the whole, whatever was asked. */
const withoutRanges: Behaviour = (_, response, bytes) => {
  response.writeHead(200, { "content-length": bytes.byteLength }).end(bytes);
  return true;
};

/** Sends the head of an honest answer and `count` bytes of it, then cuts the connection. */
function cutAfter(request: IncomingMessage, response: ServerResponse, bytes: Uint8Array, count: number): void {
  const [start, end] = /(\d+)-(\d+)/
    .exec(request.headers.range ?? `0-${bytes.byteLength - 1}`)!
    .slice(1)
    .map(Number);
  const part = bytes.subarray(start, end! + 1);
  response.writeHead(request.headers.range ? 206 : 200, {
    "content-length": part.byteLength,
    ...(request.headers.range ? { "content-range": `bytes ${start}-${end}/${bytes.byteLength}` } : {}),
  });
  response.write(part.subarray(0, count), () => response.destroy());
}

beforeAll(async () => {
  server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url!, "http://x").pathname);
    const { method, headers } = request;
    requests.push({ path, method, range: headers.range, authorization: headers.authorization });
    const bytes = contents.get(path);
    if (bytes === undefined) {
      response.writeHead(404, { "x-error-code": "EntryNotFound" }).end("no such file");
      return;
    }
    if (!behave(request, response, bytes)) answer(request, response, bytes);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/m/`);
});
afterAll(() => {
  server.closeAllConnections();
  return new Promise((resolve) => server.close(resolve));
});
afterEach(() => {
  behave = () => false;
  contents.clear();
  requests.length = 0;
});

const put = (path: string, bytes: Uint8Array | string) =>
  contents.set(path, typeof bytes === "string" ? new TextEncoder().encode(bytes) : bytes);

describe("an address", () => {
  test("is read by range, and an absent file is absent", async () => {
    put("/m/a.safetensors", content(1000));
    put("/m/empty", "");
    const files = openUrl(new URL(base.href.replace(/\/$/, "")), fast);
    expect(await files.size("a.safetensors")).toBe(1000);
    expect(await files.size("gone.json")).toBeUndefined();
    expect(await files.size("empty")).toBe(0);
    expect(await files.read("a.safetensors", { start: 10, end: 20 })).toEqual(content(1000).slice(10, 20));
    expect(await files.read("a.safetensors")).toEqual(content(1000));
    expect(requests.filter(({ path }) => path.endsWith("a.safetensors")).map(({ range }) => range)).toEqual([
      "bytes=0-0",
      "bytes=10-19",
      "bytes=0-999",
    ]);
    await expect(files.read("gone.json")).rejects.toThrow(
      new ModelSourceError(`${base}gone.json: expected a file, got 404 Not Found`),
    );
    await expect(files.read("a.safetensors", { start: 0, end: 1001 })).rejects.toThrow(
      /expected bytes 0 to 1001, got a file of 1000 bytes/,
    );
  });

  test("a page instead of a file counts as absent", async () => {
    put("/m/x.json", "<html>");
    behave = (_, response) => {
      response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end("<html>");
      return true;
    };
    expect(await openUrl(base, fast).size("x.json")).toBeUndefined();
  });

  test("a cut body goes on where it was cut, however often", async () => {
    put("/m/a.safetensors", content(1000));
    behave = (request, response, bytes) => {
      if (request.headers.range === "bytes=0-0") return false;
      cutAfter(request, response, bytes, 300);
      return true;
    };
    expect(await openUrl(base, fast).read("a.safetensors", { start: 0, end: 1000 })).toEqual(content(1000));
    expect(requests.map(({ range }) => range)).toEqual([
      "bytes=0-0",
      "bytes=0-999",
      "bytes=300-999",
      "bytes=600-999",
      "bytes=900-999",
    ]);
  });

  test("a body that never goes on is refused, with what came", async () => {
    put("/m/a.safetensors", content(1000));
    behave = (request, response, bytes) => {
      if (request.headers.range === "bytes=0-0") return false;
      cutAfter(request, response, bytes, request.headers.range === "bytes=0-999" ? 300 : 0);
      return true;
    };
    await expect(openUrl(base, fast).read("a.safetensors", { start: 0, end: 1000 })).rejects.toThrow(
      /expected bytes 0 to 1000, got 300 of 1000 and no more in 3 tries/,
    );
  });

  test("busy servers are asked again, a few times; others not", async () => {
    put("/m/a", content(10));
    let left = 2;
    behave = (_, response) => {
      if (left-- <= 0) return false;
      response.writeHead(503).end();
      return true;
    };
    expect(await openUrl(base, fast).size("a")).toBe(10);
    behave = (_, response) => {
      response.writeHead(503).end();
      return true;
    };
    requests.length = 0;
    await expect(openUrl(base, fast).size("a")).rejects.toThrow(
      /expected an answer, got 503 Service Unavailable after 3 tries/,
    );
    expect(requests).toHaveLength(3);
    behave = (_, response) => {
      response.writeHead(401).end();
      return true;
    };
    requests.length = 0;
    await expect(openUrl(base, fast).size("a")).rejects.toThrow(/expected a file, got 401 Unauthorized/);
    expect(requests).toHaveLength(1);
  });

  test("no server at all", async () => {
    await expect(openUrl(new URL("http://127.0.0.1:9/"), fast).size("a")).rejects.toThrow(ModelSourceError);
  });

  test("a server that stalls is given up on", async () => {
    put("/m/a", content(10));
    behave = () => true;
    const files = openUrl(base, { ...fast, stallMs: 50 });
    await expect(files.size("a")).rejects.toThrow(/expected an answer, got none \(nothing came for 0.05 s\)/);
    server.closeAllConnections();
  });

  test("a file that changes under way is refused", async () => {
    put("/m/a", content(1000));
    let version = 0;
    behave = (_, response) => {
      response.setHeader("etag", `"v${version++ >> 1}"`);
      return false;
    };
    const files = openUrl(base, fast);
    await files.read("a", { start: 0, end: 10 });
    await expect(files.read("a", { start: 10, end: 20 })).rejects.toThrow(
      /expected one and the same file, got a changed one/,
    );
  });

  test("abort rejects with its reason, at once", async () => {
    put("/m/a", content(10));
    behave = () => true;
    const stop = new AbortController();
    const reason = new Error("stop");
    const pending = openUrl(base, fast).size("a", stop.signal);
    setTimeout(() => stop.abort(reason), 20);
    await expect(pending).rejects.toBe(reason);
    await expect(openUrl(base, fast).read("a", undefined, AbortSignal.abort(reason))).rejects.toBe(reason);
    server.closeAllConnections();
  });

  test("compressed answers count by what comes out of them", async () => {
    put("/m/config.json", "{}");
    const text = JSON.stringify({ words: "long ".repeat(100) });
    const { gzipSync } = await import("node:zlib");
    behave = (_, response) => {
      response.writeHead(200, { "content-encoding": "gzip", "content-type": "application/json" }).end(gzipSync(text));
      return true;
    };
    const files = openUrl(base, fast);
    expect(await files.size("config.json")).toBe(text.length);
    expect(new TextDecoder().decode(await files.read("config.json"))).toBe(text);
  });
});

describe("a server without ranges", () => {
  const tensors = ["a", "b", "c"].map((name, index) => ({
    name,
    dtype: "F32",
    shape: [5000],
    bytes: content(20_000, index),
  }));
  const streamAll = async (files: ModelFiles, signal?: AbortSignal) => {
    const joined: number[] = [];
    const list = await readTensorList(files, signal);
    for await (const { bytes } of streamTensors(files, list, { readByteLength: 7000, signal })) joined.push(...bytes);
    return joined;
  };

  test("is read in one pass", async () => {
    put(`/m/${SINGLE_FILE}`, packTensors(tensors));
    behave = withoutRanges;
    expect(await streamAll(openUrl(base, fast))).toEqual(tensors.flatMap(({ bytes }) => [...bytes]));
    // The question for the length, the try with a range, and the pass.
    expect(requests.filter(({ path }) => path.endsWith(SINGLE_FILE)).length).toBeLessThanOrEqual(3);
  });

  test("reading backwards begins anew", async () => {
    put("/m/a.safetensors", content(1000));
    behave = withoutRanges;
    const files = openUrl(base, fast);
    expect(await files.read("a.safetensors", { start: 500, end: 600 })).toEqual(content(1000).slice(500, 600));
    expect(await files.read("a.safetensors", { start: 100, end: 200 })).toEqual(content(1000).slice(100, 200));
  });

  test("that cuts the body is refused: it cannot be resumed", async () => {
    put(`/m/${SINGLE_FILE}`, packTensors(tensors));
    let count = 0;
    behave = (request, response, bytes) => {
      if (count++ === 0) return withoutRanges(request, response, bytes);
      response.writeHead(200, { "content-length": bytes.byteLength });
      response.write(bytes.subarray(0, 30_000), () => response.destroy());
      return true;
    };
    const error = await streamAll(openUrl(base, fast)).catch((caught) => caught);
    expect(error).toBeInstanceOf(ModelSourceError);
    expect(error.message).toMatch(/expected \d+ bytes, got a body cut after \d+, and this server cannot resume/);
  });

  test("that stalls is given up on, and an abort ends the pass", async () => {
    put(`/m/${SINGLE_FILE}`, packTensors(tensors));
    let count = 0;
    let closed = 0;
    behave = (request, response, bytes) => {
      if (count++ === 0) return withoutRanges(request, response, bytes);
      response.on("close", () => closed++);
      response.writeHead(200, { "content-length": bytes.byteLength });
      response.write(bytes.subarray(0, 30_000));
      return true;
    };
    await expect(streamAll(openUrl(base, { ...fast, stallMs: 100 }))).rejects.toThrow(
      /cut after \d+.*nothing came for 0.1 s/,
    );
    count = 0;
    const stop = new AbortController();
    const pending = streamAll(openUrl(base, fast), stop.signal);
    setTimeout(() => stop.abort(new Error("stop")), 100);
    await expect(pending).rejects.toThrow("stop");
    await expect.poll(() => closed).toBe(2);
  });
});

/** A Cache that is a map. */
function mapCache(options: { isFull?: boolean } = {}) {
  const entries = new Map<string, Uint8Array<ArrayBuffer>>();
  const cache = {
    match: async (key: string) => (entries.has(key) ? new Response(entries.get(key)!) : undefined),
    put: async (key: string, response: Response) => {
      if (options.isFull) throw new DOMException("full", "QuotaExceededError");
      entries.set(key, new Uint8Array(await response.arrayBuffer()));
    },
    delete: async (key: string) => entries.delete(key),
    keys: async () => [...entries.keys()].map((url) => ({ url })),
  };
  return { cache: cache as unknown as CacheLike, entries };
}

describe("the hub", () => {
  const id = "owner/tiny";
  const putHub = (path: string, bytes: Uint8Array | string) => put(`/${id}/resolve/main/${path}`, bytes);
  const open = (more = {}) => openHub(id, { ...fast, hubUrl: base.origin, cache: false as const, ...more });
  let etag = '"v1"';
  const withEtag: Behaviour = (_, response) => {
    response.setHeader("etag", etag);
    return false;
  };

  test("ids are told from addresses", () => {
    for (const one of ["HuggingFaceTB/SmolLM2-135M-Instruct", "a/b", "Qwen/Qwen2.5-0.5B"])
      expect(isHubId(one), one).toBe(true);
    for (const one of ["https://x/y", "./models/x", "models/x/", "/a/b", "../a", "a", "a/b/c", "a/b?x", ""])
      expect(isHubId(one), one).toBe(false);
  });

  test("files are found and read by range, with the token", async () => {
    putHub("config.json", '{"a":1}');
    behave = withEtag;
    const files = await open({ token: "hf_secret" });
    expect(files.name).toBe(id);
    expect(await files.size("config.json")).toBe(7);
    expect(await files.size("generation_config.json")).toBeUndefined();
    expect(new TextDecoder().decode(await files.read("config.json"))).toBe('{"a":1}');
    expect(requests.every(({ authorization }) => authorization === "Bearer hf_secret")).toBe(true);
    await expect(files.read("gone")).rejects.toThrow(
      new ModelSourceError("owner/tiny: expected a file named gone, got none"),
    );
  });

  test("refusals say what to do", async () => {
    putHub("config.json", "{}");
    const status =
      (code: number): Behaviour =>
      (_, response) => {
        response.writeHead(code, { "content-type": "application/json" }).end('{"error":"no"}');
        return true;
      };
    behave = status(401);
    await expect((await open()).size("config.json")).rejects.toThrow(
      new ModelSourceError(
        "owner/tiny: expected a model on the Hugging Face hub, got there is no such model, or it is private or gated: give an access token",
      ),
    );
    behave = status(403);
    await expect((await open()).size("config.json")).rejects.toThrow(/accept its terms on huggingface.co/);
    behave = status(500);
    await expect((await open()).size("config.json")).rejects.toThrow(ModelSourceError);
  });

  test("what was fetched once is not fetched again, even without a connection; a new version is", async () => {
    const bytes = content(CACHE_PIECE_BYTE_LENGTH + 5000);
    putHub(SINGLE_FILE, bytes);
    behave = withEtag;
    const { cache, entries } = mapCache();
    const range = { start: CACHE_PIECE_BYTE_LENGTH - 10, end: CACHE_PIECE_BYTE_LENGTH + 10 };
    expect(await (await open({ cache })).read(SINGLE_FILE, range)).toEqual(bytes.slice(range.start, range.end));
    expect(entries.size).toBe(3);
    requests.length = 0;
    const again = await open({ cache });
    expect(Buffer.compare(await again.read(SINGLE_FILE), bytes)).toBe(0);
    expect(requests.map(({ range: asked }) => asked)).toEqual(["bytes=0-0"]);

    const offline = await openHub(id, { ...fast, hubUrl: "http://127.0.0.1:9", cache });
    expect(Buffer.compare(await offline.read(SINGLE_FILE), bytes)).toBe(0);

    etag = '"v2"';
    const other = content(2000, 9);
    putHub(SINGLE_FILE, other);
    expect(await (await open({ cache })).read(SINGLE_FILE)).toEqual(other);
    expect(entries.size).toBe(2);
    etag = '"v1"';
  });

  test("pieces of two versions make no file", async () => {
    putHub("a", content(5000));
    behave = withEtag;
    const { cache, entries } = mapCache();
    await (await open({ cache })).read("a");
    for (const key of entries.keys()) if (key.includes("piece=")) entries.delete(key);
    // At first there is no connection, and what was known serves; then there is one, to a newer file.
    let isOnline = false;
    const flaky = async (...request: Parameters<typeof fetch>) => {
      if (!isOnline) throw new TypeError("fetch failed");
      return fetch(...request);
    };
    const files = await open({ cache, fetch: flaky });
    expect(await files.size("a")).toBe(5000);
    isOnline = true;
    etag = '"v2"';
    await expect(files.read("a")).rejects.toThrow(
      /expected a as it was \(version "v1"\), got version "v2"; load it again/,
    );
    etag = '"v1"';
  });

  test("half a piece in the cache is fetched again, and a full cache is done without", async () => {
    putHub("a", content(5000));
    behave = withEtag;
    const { cache, entries } = mapCache();
    await (await open({ cache })).read("a");
    for (const [key, value] of entries) if (key.includes("piece=")) entries.set(key, value.slice(0, 100));
    expect(await (await open({ cache })).read("a")).toEqual(content(5000));
    expect(await (await open({ cache: mapCache({ isFull: true }).cache })).read("a")).toEqual(content(5000));
  });
});

describe("files and folders", () => {
  const file = (name: string, text: string, path = "") => {
    const made = new File([text], name);
    if (path) Object.defineProperty(made, "webkitRelativePath", { value: path });
    return made;
  };

  test("chosen files, and a chosen folder from its inside", async () => {
    const files = openFiles([file("config.json", "{}"), file("b.bin", "0123456789")]);
    expect(await files.size("config.json")).toBe(2);
    expect(await files.size("gone")).toBeUndefined();
    expect(new TextDecoder().decode(await files.read("b.bin", { start: 2, end: 5 }))).toBe("234");
    await expect(files.read("b.bin", { start: 2, end: 50 })).rejects.toThrow(ModelSourceError);
    await expect(files.read("gone")).rejects.toThrow("expected a file named gone among those chosen, got none");
    const folder = openFiles([file("config.json", "{}", "my-model/config.json")]);
    expect(folder.name).toBe("my-model");
    expect(await folder.size("config.json")).toBe(2);
    expect(() => openFiles([])).toThrow(OptionError);
  });

  test("a folder's handle", async () => {
    const notFound = () => Promise.reject(new DOMException("none", "NotFoundError"));
    const handle = {
      kind: "directory",
      name: "my-model",
      getFileHandle: async (name: string) =>
        name === "config.json" ? { getFile: async () => file(name, "{}") } : notFound(),
      getDirectoryHandle: notFound,
    } as unknown as FileSystemDirectoryHandle;
    const files = await openModelSource(handle);
    expect(files.name).toBe("my-model");
    expect(await files.size("config.json")).toBe(2);
    expect(await files.size("sub/config.json")).toBeUndefined();
    await expect(openDirectory(handle).read("gone")).rejects.toThrow(ModelSourceError);
  });

  test("a drop: a folder's handle where the browser has one, else its files", async () => {
    const inner = file("config.json", "{}");
    const handle = { kind: "directory", name: "m" };
    const batches = [[{ isFile: true, file: (found: (one: File) => void) => found(inner) }], []];
    const entry = {
      isDirectory: true,
      name: "m",
      createReader: () => ({ readEntries: (found: (list: unknown) => void) => found(batches.shift()) }),
    };
    const item = (more: object) => ({ kind: "file", getAsFile: () => inner, ...more });
    const drop = (...items: object[]) => sourceFromDrop({ items } as unknown as DataTransfer);
    expect(await drop(item({ webkitGetAsEntry: () => entry, getAsFileSystemHandle: async () => handle }))).toBe(handle);
    expect(await drop(item({ webkitGetAsEntry: () => entry }))).toEqual([inner]);
    expect(await drop(item({}), item({}))).toEqual([inner, inner]);
    await expect(drop({ kind: "string" })).rejects.toThrow(OptionError);
  });

  test("a folder on disk", async () => {
    const folder = mkdtempSync(join(tmpdir(), "ringwise-"));
    try {
      writeFileSync(join(folder, "a.bin"), content(100));
      const files = await openFolder(folder);
      expect(await files.size("a.bin")).toBe(100);
      expect(await files.size("gone")).toBeUndefined();
      expect(await files.read("a.bin", { start: 90, end: 100 })).toEqual(content(100).slice(90));
      await expect(files.read("a.bin", { start: 90, end: 101 })).rejects.toThrow(ModelSourceError);
      await expect(files.read("gone")).rejects.toThrow(ModelSourceError);
      await expect(files.read("../../etc/passwd")).rejects.toThrow(OptionError);
      await expect(openFolder(join(folder, "nowhere"))).rejects.toThrow(/expected a folder, got nothing/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("every kind of source is told apart, and nonsense is refused by name", async () => {
    const files = openFiles([file("config.json", "{}")]);
    expect(await openModelSource(files)).toBe(files);
    expect((await openModelSource([file("config.json", "{}")])).name).toBe("config.json");
    expect((await openModelSource("https://example.org/m")).name).toBe("https://example.org/m/");
    expect((await openModelSource(new URL("https://example.org/m/?key=1"))).name).toBe("https://example.org/m/?key=1");
    for (const nonsense of ["", "gpt2", "ftp://x/y", "file:///etc/", 3, null, undefined, {}, [3]])
      await expect(openModelSource(nonsense as string), String(nonsense)).rejects.toThrow(
        /openModelSource: expected a Hugging Face id \("owner\/name"\), the URL of a folder, files, or a folder, got /,
      );
  });

  test.skipIf(!existsSync(`${__SHARED__}/models/stories260K`))("a real folder without weights says so", async () => {
    const files = await openFolder(`${__SHARED__}/tokenizers/phi3`);
    await expect(readTensorList(files)).rejects.toThrow(ModelFormatError);
  });
});
