/**
 * Files over HTTP: ranges where the server has them, else one pass through the body; cut bodies are resumed or refused, so
 * that a file is never half-loaded.
 */
import { ModelSourceError } from "../errors.ts";
import { bodyOf, type HttpOptions, join, request, Watchdog, wait } from "./http-request.ts";
import type { ModelFiles } from "./types.ts";

export type { HttpOptions } from "./http-request.ts";

/** A file without a length (compressed on the fly) is kept in memory until read; beyond this it is refused. */
const MAX_KEPT_BYTE_LENGTH = 64 * 2 ** 20;

/** Answers that mean: no such file. (Storage servers say 403 where listing is not allowed.) */
const isAbsent = (status: number): boolean => status === 403 || status === 404 || status === 410;

/** One pass through a body, for servers without ranges. */
interface Pass {
  reader: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;
  watchdog: Watchdog;
  /** Of the next byte. */
  position: number;
  /** Came with the last read, not wanted yet. */
  rest: Uint8Array<ArrayBuffer>;
  /** Ends the pass when it is aborted, at any time: a reader who gives up leaves no open connection. */
  signal?: AbortSignal;
}

/** One file at a URL. */
export class HttpFile {
  private byteLength: number | undefined;
  private etag: string | undefined;
  private kept: Uint8Array<ArrayBuffer> | undefined;
  private pass: Pass | undefined;
  private hasRanges = true;
  /** Reads of one file go one after the other: a pass has one position. */
  private queue: Promise<unknown> = Promise.resolve();
  /** Why the file counts as absent. */
  private absence = "";

  /** @param byteLength Where it is known already; saves the question. */
  constructor(
    readonly url: string,
    private readonly options: HttpOptions = {},
    byteLength?: number,
  ) {
    this.byteLength = byteLength;
  }

  /** Bytes of the file, or undefined where it is absent. @throws {ModelSourceError} Abort rejects with `signal.reason`. */
  size(signal?: AbortSignal): Promise<number | undefined> {
    return this.enqueue(async () => {
      signal?.throwIfAborted();
      if (this.byteLength === undefined && this.absence === "") await this.probe(signal);
      return this.byteLength;
    });
  }

  /** Bytes `[start, end)`. @throws {ModelSourceError} where they do not all come. Abort rejects with `signal.reason`. */
  read(start: number, end: number, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    return this.enqueue(async () => {
      signal?.throwIfAborted();
      if (this.byteLength === undefined && this.absence === "") await this.probe(signal);
      if (this.byteLength === undefined) return this.fail(`expected a file, got ${this.absence}`);
      if (start < 0 || end > this.byteLength || start > end)
        return this.fail(`expected bytes ${start} to ${end}, got a file of ${this.byteLength} bytes`);
      if (start === end) return new Uint8Array(0);
      if (this.kept) return this.kept.slice(start, end);
      if (this.hasRanges) {
        const bytes = await this.readRange(start, end, signal);
        if (bytes) return bytes;
      }
      return this.readPass(start, end, signal);
    });
  }

  private enqueue<T>(work: () => Promise<T>): Promise<T> {
    const result = this.queue.then(work);
    this.queue = result.catch(() => {});
    return result;
  }

  private fail(what: string, cause?: unknown): never {
    throw new ModelSourceError(`${this.url}: ${what}`, { cause });
  }

  private request(headers: Record<string, string>, watchdog: Watchdog, signal?: AbortSignal): Promise<Response> {
    return request(this.url, headers, this.options, watchdog, signal);
  }

  /** Refuses a file that is no longer the one that we began with. */
  private checkSame(response: Response, total: number | undefined): void {
    const etag = response.headers.get("etag")?.replace(/^W\//, "");
    if (etag && this.etag && etag !== this.etag)
      this.fail(`expected one and the same file, got a changed one (ETag ${etag}, was ${this.etag})`);
    this.etag ??= etag;
    if (total !== undefined && this.byteLength !== undefined && total !== this.byteLength)
      this.fail(`expected a file of ${this.byteLength} bytes, got one of ${total}`);
  }

  /** Length, and whether the file is there, out of a request for its first byte. */
  private async probe(signal?: AbortSignal): Promise<void> {
    const watchdog = new Watchdog(this.options.stallMs ?? 60_000, signal);
    const response = await this.request({ Range: "bytes=0-0" }, watchdog, signal);
    const cancel = () => response.body?.cancel().catch(() => {});
    const type = response.headers.get("content-type") ?? "";
    if (isAbsent(response.status)) this.absence = `${response.status} ${response.statusText}`.trim();
    // What single-page servers answer for anything absent.
    else if (response.ok && type.startsWith("text/html")) this.absence = "a web page";
    if (this.absence) return void (await cancel());
    const range = /^bytes (?:\d+-\d+|\*)\/(\d+)$/.exec(response.headers.get("content-range") ?? "");
    if (response.status === 416 && range?.[1] === "0") {
      this.byteLength = 0;
      return void (await cancel());
    }
    if (!response.ok) {
      await cancel();
      this.fail(`expected a file, got ${response.status} ${response.statusText}`.trim());
    }
    this.checkSame(response, undefined);
    if (response.status === 206 && range) {
      this.byteLength = Number(range[1]);
      return void (await cancel());
    }
    // No length to be seen (another origin hides Content-Range), or no ranges. Large files state their length; for the
    // others it cannot be trusted, since they may be compressed under way.
    const length = response.headers.get("content-length");
    if (response.status === 200) {
      this.hasRanges = false;
      if (length && this.url.includes(".safetensors") && !this.url.includes(".json")) {
        this.byteLength = Number(length);
        return void (await cancel());
      }
      await cancel();
    } else {
      await cancel();
      const head = await request(this.url, {}, { ...this.options, method: "HEAD" }, watchdog, signal);
      const headLength = head.ok && !head.headers.get("content-encoding") ? head.headers.get("content-length") : null;
      if (headLength) {
        this.byteLength = Number(headLength);
        return;
      }
    }
    await this.keep(signal);
  }

  /** Reads a small file of unknown length whole. */
  private async keep(signal?: AbortSignal): Promise<void> {
    const watchdog = new Watchdog(this.options.stallMs ?? 60_000, signal);
    const response = await this.request({}, watchdog, signal);
    if (!response.ok || !response.body)
      this.fail(`expected a file, got ${response.status} ${response.statusText}`.trim());
    const stated = response.headers.get("content-encoding") ? null : response.headers.get("content-length");
    const parts: Uint8Array<ArrayBuffer>[] = [];
    let received = 0;
    try {
      for await (const part of bodyOf(response, watchdog)) {
        parts.push(part);
        received += part.byteLength;
        if (received > MAX_KEPT_BYTE_LENGTH)
          this.fail(`expected a Content-Length for a file this large, got none in ${received} bytes`);
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof ModelSourceError && error.message.startsWith(this.url)) throw error;
      this.fail(`expected the whole file, got ${received} bytes: ${(error as Error).message}`, error);
    }
    // More than stated: it was compressed, and the length is that of the compressed body.
    if (stated && received < Number(stated)) this.fail(`expected ${stated} bytes (Content-Length), got ${received}`);
    this.kept = join(parts, received);
    this.byteLength = received;
  }

  /** By range; a cut body goes on where it was cut. Undefined where the server turns out to have no ranges. */
  private async readRange(
    start: number,
    end: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array<ArrayBuffer> | undefined> {
    const { attempts = 5, retryDelayMs = 500, stallMs = 60_000 } = this.options;
    const bytes = new Uint8Array(end - start);
    let received = 0;
    for (let fruitless = 0; received < bytes.byteLength; ) {
      const watchdog = new Watchdog(stallMs, signal);
      const from = start + received;
      const response = await this.request({ Range: `bytes=${from}-${end - 1}` }, watchdog, signal);
      if (response.status !== 206 || !response.body) {
        await response.body?.cancel().catch(() => {});
        if (response.status !== 200)
          this.fail(`expected bytes ${from} to ${end}, got ${response.status} ${response.statusText}`.trim());
        if (received > 0) this.fail(`expected bytes ${from} to ${end}, got a server that no longer answers ranges`);
        this.hasRanges = false;
        return undefined;
      }
      const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get("content-range") ?? "");
      this.checkSame(response, range && range[2] !== "*" ? Number(range[2]) : undefined);
      if (range && Number(range[1]) !== from) this.fail(`expected bytes from ${from}, got ${range[0]}`);
      const before = received;
      let problem: unknown;
      try {
        for await (const part of bodyOf(response, watchdog)) {
          if (received + part.byteLength > bytes.byteLength)
            this.fail(`expected bytes ${from} to ${end}, got more than ${end - from}`);
          bytes.set(part, received);
          received += part.byteLength;
        }
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof ModelSourceError && error.message.startsWith(this.url)) throw error;
        problem = error;
      }
      if (received === bytes.byteLength) break;
      fruitless = received > before ? 0 : fruitless + 1;
      if (fruitless >= attempts)
        this.fail(
          `expected bytes ${start} to ${end}, got ${received} of ${end - start} and no more in ${attempts} tries`,
          problem,
        );
      await wait(retryDelayMs * 2 ** fruitless, signal);
    }
    return bytes;
  }

  /** In one pass from the file's start; a cut body cannot be resumed, and is refused. */
  private async readPass(start: number, end: number, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    if (this.pass && this.pass.position > start) this.endPass();
    const pass = (this.pass ??= await this.beginPass(signal));
    const bytes = new Uint8Array(end - start);
    if (pass.signal !== signal) {
      pass.signal = signal;
      signal?.addEventListener("abort", () => pass.signal === signal && this.pass === pass && this.endPass(), {
        once: true,
      });
    }
    try {
      while (pass.position < end) {
        signal?.throwIfAborted();
        if (pass.rest.byteLength === 0) {
          pass.watchdog.reset();
          const { done, value } = await pass.reader.read();
          pass.watchdog.pause();
          signal?.throwIfAborted();
          if (done)
            this.fail(
              `expected ${this.byteLength} bytes, got a body cut after ${pass.position}, and this server cannot resume (no range requests)`,
            );
          pass.rest = value;
        }
        const skipped = Math.max(0, Math.min(pass.rest.byteLength, start - pass.position));
        const wanted = pass.rest.subarray(skipped, skipped + end - Math.max(start, pass.position + skipped));
        if (wanted.byteLength > 0) bytes.set(wanted, pass.position + skipped - start);
        pass.position += skipped + wanted.byteLength;
        pass.rest = pass.rest.subarray(skipped + wanted.byteLength);
      }
      return bytes;
    } catch (error) {
      this.endPass();
      signal?.throwIfAborted();
      if (error instanceof ModelSourceError && error.message.startsWith(this.url)) throw error;
      return this.fail(
        `expected ${this.byteLength} bytes, got a body cut after ${pass.position}, and this server cannot resume (no range requests): ${(error as Error).message}`,
        error,
      );
    } finally {
      if (pass.position === this.byteLength) this.endPass();
    }
  }

  private async beginPass(signal?: AbortSignal): Promise<Pass> {
    const watchdog = new Watchdog(this.options.stallMs ?? 60_000);
    const stop = () => watchdog.stop(signal!.reason);
    signal?.addEventListener("abort", stop, { once: true });
    const response = await this.request({}, watchdog, signal).finally(() => signal?.removeEventListener("abort", stop));
    if (!response.ok || !response.body)
      this.fail(`expected a file, got ${response.status} ${response.statusText}`.trim());
    const length = response.headers.get("content-length");
    this.checkSame(response, length && !response.headers.get("content-encoding") ? Number(length) : undefined);
    const reader = response.body.getReader() as Pass["reader"];
    return { reader, watchdog, position: 0, rest: new Uint8Array(0) };
  }

  private endPass(): void {
    this.pass?.watchdog.pause();
    this.pass?.reader.cancel().catch(() => {});
    this.pass = undefined;
  }
}

/** A folder at a URL: `<url>/config.json` and so on. Nothing is fetched yet. */
export function openUrl(url: URL, options: HttpOptions = {}): ModelFiles {
  const base = new URL(url);
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  const files = new Map<string, HttpFile>();
  const open = (path: string): HttpFile => {
    const target = new URL(path, base);
    // Signed folders carry their key in the query.
    target.search = base.search;
    let file = files.get(path);
    if (!file) files.set(path, (file = new HttpFile(target.href, options)));
    return file;
  };
  return {
    name: base.href,
    size: (path, signal) => open(path).size(signal),
    async read(path, range, signal) {
      const file = open(path);
      return range ? file.read(range.start, range.end, signal) : file.read(0, (await file.size(signal)) ?? 0, signal);
    },
  };
}
