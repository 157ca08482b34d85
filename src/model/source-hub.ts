/** Models on the Hugging Face hub, by id: `@huggingface/hub` finds the file, ranges fetch it, the browser keeps it. */
import { ModelSourceError, RingwiseError } from "../errors.ts";
import { request, Watchdog } from "./http-request.ts";
import { type CacheLike, cacheFiles, type FileVersion, type VersionedFiles } from "./source-cache.ts";
import { HttpFile, type HttpOptions } from "./source-http.ts";
import type { ModelFiles } from "./types.ts";

/** Where and how a model is looked up. */
export interface HubOptions extends HttpOptions {
  /** Access token, for private and gated models. */
  token?: string;
  /** Default https://huggingface.co. */
  hubUrl?: string;
  /** Branch, tag or commit. Default "main". */
  revision?: string;
  /** Where files are kept; false: nowhere. Default: the browser's Cache API where there is one. */
  cache?: CacheLike | false;
}

/** `owner/name`, as the hub allows them. */
const HUB_ID = /^[A-Za-z0-9][\w.-]{0,95}\/[A-Za-z0-9][\w.-]{0,95}$/;

/** True for "HuggingFaceTB/SmolLM2-135M"; false for an address ("https://...", "./models/x", "models/x/"). */
export const isHubId = (source: string): boolean => HUB_ID.test(source);

/** What a person can do about an answer of the hub. */
function explain(id: string, token: string | undefined, error: unknown): never {
  if (error instanceof RingwiseError) throw error;
  const { statusCode, message } = error as Error & { statusCode?: number };
  const advice: Record<number, string> = {
    401: token
      ? "the hub does not accept this access token, or there is no such model"
      : "there is no such model, or it is private or gated: give an access token",
    403: "the model is gated: accept its terms on huggingface.co and give an access token that may read it",
    404: "there is no such model or revision",
  };
  const text = statusCode === undefined ? undefined : advice[statusCode];
  throw new ModelSourceError(`${id}: expected a model on the Hugging Face hub, got ${text ?? message}`, {
    cause: error,
  });
}

async function openCache(name: string): Promise<CacheLike | undefined> {
  // Absent in Node and on insecure pages; may be refused in private windows.
  const storage = (globalThis as { caches?: CacheStorage }).caches;
  return storage?.open(name).catch(() => undefined);
}

/**
 * The files of a model on the hub. Nothing is fetched yet. The hub's library is loaded with the first file.
 * @param id "owner/name"
 */
export async function openHub(id: string, options: HubOptions = {}): Promise<ModelFiles> {
  const { token, revision = "main" } = options;
  const found = new Map<string, Promise<(FileVersion & { file: HttpFile }) | undefined>>();

  const look = async (path: string, signal?: AbortSignal) => {
    const { fileDownloadInfo } = await import("@huggingface/hub");
    const info = await fileDownloadInfo({
      repo: { type: "model", name: id },
      path,
      revision,
      hubUrl: options.hubUrl,
      accessToken: token,
      fetch: (url, init) => {
        const watchdog = new Watchdog(options.stallMs ?? 60_000, signal);
        return request(String(url), init?.headers as Record<string, string>, options, watchdog, signal);
      },
    }).catch((error) => {
      signal?.throwIfAborted();
      return explain(id, token, error);
    });
    if (!info) return undefined;
    // Plain ranges, not the hub's chunk store: each can be checked by its length and resumed where it was cut.
    const headers = token ? { ...options.headers, Authorization: `Bearer ${token}` } : options.headers;
    const file = new HttpFile(info.url, { ...options, headers }, info.size);
    return { byteLength: info.size, version: info.etag, file };
  };
  const find = (path: string, signal?: AbortSignal) => {
    let result = found.get(path);
    if (!result) {
      result = look(path, signal);
      found.set(path, result);
      // A failure is not remembered: the next try may have a connection.
      result.catch(() => found.delete(path));
    }
    return result;
  };

  const files: VersionedFiles = {
    name: id,
    describe: find,
    size: async (path, signal) => (await find(path, signal))?.byteLength,
    async read(path, range, signal) {
      const entry = await find(path, signal);
      if (!entry) throw new ModelSourceError(`${id}: expected a file named ${path}, got none`);
      return entry.file.read(range?.start ?? 0, range?.end ?? entry.byteLength, signal);
    },
  };
  const cache = options.cache ?? (await openCache(`ringwise:${revision}`));
  if (!cache) return files;
  const describe = async (path: string, signal?: AbortSignal) => {
    const entry = await find(path, signal);
    return entry && { byteLength: entry.byteLength, version: entry.version };
  };
  return cacheFiles({ ...files, describe }, cache);
}
