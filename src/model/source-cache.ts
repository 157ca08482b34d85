/** Keeping a model's files in the browser (Cache API), in pieces: what was fetched once is never fetched again, and a download that stopped goes on. */
import { ModelSourceError } from "../errors.ts";
import type { ModelFiles } from "./types.ts";

/** Bytes of one piece in the cache. */
export const CACHE_PIECE_BYTE_LENGTH = 8 * 2 ** 20;

/** What is known of a file: enough to tell one version from another. */
export interface FileVersion {
  byteLength: number;
  /** Changes with the content (ETag). */
  version: string;
}

/** Files whose versions can be told apart. */
export interface VersionedFiles extends ModelFiles {
  /** Undefined where the file is absent. */
  describe(path: string, signal?: AbortSignal): Promise<FileVersion | undefined>;
}

/** What is used of a browser's Cache. */
export type CacheLike = Pick<Cache, "match" | "put" | "delete" | "keys">;

/** Keys have to be http(s) addresses; this one is reserved for never existing. */
const keyOf = (name: string, path: string, query: string): string =>
  `https://ringwise.invalid/${encodeURIComponent(name)}/${encodeURIComponent(path)}?${query}`;

/** What an earlier visit wrote down: a version, null for an absent file, undefined where it cannot be made sense of. */
function parseVersion(bytes: Uint8Array | undefined): FileVersion | null | undefined {
  try {
    const info = JSON.parse(new TextDecoder().decode(bytes));
    if (info === null) return null;
    const { byteLength, version } = info;
    return Number.isSafeInteger(byteLength) && typeof version === "string" ? { byteLength, version } : undefined;
  } catch {
    return undefined;
  }
}

/**
 * The same files, read through a cache. A piece counts only when it has the length that it must have. Where there is no
 * connection, what is known from the last time serves. A cache that is full or refuses is done without.
 */
export function cacheFiles(files: VersionedFiles, cache: CacheLike): ModelFiles {
  let isWritable = true;
  const versions = new Map<string, FileVersion>();
  /** The piece met last: reads in sequence share one at each border. */
  let last: { key: string; bytes: Uint8Array<ArrayBuffer> } | undefined;

  const match = async (key: string): Promise<Uint8Array<ArrayBuffer> | undefined> => {
    try {
      const response = await cache.match(key);
      return response && new Uint8Array(await response.arrayBuffer());
    } catch {
      return undefined;
    }
  };
  const put = async (key: string, body: BodyInit): Promise<void> => {
    if (!isWritable) return;
    await cache.put(key, new Response(body)).catch(() => {
      isWritable = false;
    });
  };
  /** Pieces of another version of the file are of no use to anyone. */
  const forget = async (path: string, version: string): Promise<void> => {
    const prefix = keyOf(files.name, path, "version=");
    const current = keyOf(files.name, path, `version=${encodeURIComponent(version)}&`);
    for (const { url } of await cache.keys().catch(() => []))
      if (url.startsWith(prefix) && !url.startsWith(current)) await cache.delete(url).catch(() => false);
  };
  const describe = async (path: string, signal?: AbortSignal): Promise<FileVersion | undefined> => {
    const known = versions.get(path);
    if (known) return known;
    const key = keyOf(files.name, path, "info");
    const before = parseVersion(await match(key));
    let now: FileVersion | null;
    try {
      now = (await files.describe(path, signal)) ?? null;
    } catch (error) {
      signal?.throwIfAborted();
      if (before === undefined) throw error;
      now = before;
    }
    if (before && before.version !== now?.version) await forget(path, now?.version ?? "");
    // Absent files are written down as well: without a connection they are as absent as before.
    if (before === undefined || before?.version !== now?.version) await put(key, JSON.stringify(now));
    if (!now) return undefined;
    versions.set(path, now);
    return now;
  };
  const piece = async (path: string, info: FileVersion, index: number, signal?: AbortSignal) => {
    const key = keyOf(files.name, path, `version=${encodeURIComponent(info.version)}&piece=${index}`);
    if (last?.key === key) return last.bytes;
    const start = index * CACHE_PIECE_BYTE_LENGTH;
    const end = Math.min(start + CACHE_PIECE_BYTE_LENGTH, info.byteLength);
    let bytes = await match(key);
    if (bytes?.byteLength !== end - start) {
      // What was written down may be older than what is there now; pieces of two versions make no file.
      const there = await files.describe(path, signal);
      if (there?.version !== info.version)
        throw new ModelSourceError(
          `${files.name}: expected ${path} as it was (version ${info.version}), got ${there ? `version ${there.version}` : "none"}; load it again`,
        );
      bytes = await files.read(path, { start, end }, signal);
      await put(key, bytes);
    }
    last = { key, bytes };
    return bytes;
  };

  return {
    name: files.name,
    size: async (path, signal) => (await describe(path, signal))?.byteLength,
    async read(path, range, signal) {
      const info = await describe(path, signal);
      // The source says best what is wrong with an absent file or a range outside of it.
      if (!info || (range && range.end > info.byteLength)) return files.read(path, range, signal);
      const { start, end } = range ?? { start: 0, end: info.byteLength };
      const bytes = new Uint8Array(end - start);
      for (let position = start; position < end; ) {
        signal?.throwIfAborted();
        const index = Math.floor(position / CACHE_PIECE_BYTE_LENGTH);
        const source = await piece(path, info, index, signal);
        const offset = position - index * CACHE_PIECE_BYTE_LENGTH;
        const part = source.subarray(offset, offset + end - position);
        bytes.set(part, position - start);
        position += part.byteLength;
      }
      return bytes;
    },
  };
}
