/** Where tuned choices are kept from one run to the next: IndexedDB in a browser, files in Node. */
import { OptionError } from "../errors.ts";
import type { TunedStore } from "./tune-types.ts";
import type { TunedRecord } from "./tuned-record.ts";

const OBJECT_STORE = "tuned";
/** A database that does not answer (another tab holds it while it is deleted) is done without. */
const PATIENCE_MS = 1000;

/** Settles as `promise` does, or rejects after {@link PATIENCE_MS}. */
function inTime<T>(promise: Promise<T>, what: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${what} did not answer within ${PATIENCE_MS} ms`)), PATIENCE_MS);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

const answerOf = <T>(request: IDBRequest<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** Opens the database, uses it in one transaction, closes it: nothing of ours stands in the way of deleting it. */
async function useDatabase<T>(
  name: string,
  mode: IDBTransactionMode,
  use: (store: IDBObjectStore) => IDBRequest<T>,
): Promise<T> {
  const factory = (globalThis as { indexedDB?: IDBFactory }).indexedDB;
  if (!factory) throw new Error("there is no IndexedDB here");
  const opening = factory.open(name, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(OBJECT_STORE);
  let isGivenUp = false;
  const opened = answerOf(opening).then((database) => {
    if (isGivenUp) database.close();
    return database;
  });
  const database = await inTime(opened, "opening it").catch((error: unknown) => {
    isGivenUp = true;
    throw error;
  });
  try {
    return await inTime(answerOf(use(database.transaction(OBJECT_STORE, mode).objectStore(OBJECT_STORE))), "it");
  } finally {
    database.close();
  }
}

/** Tuned choices in IndexedDB, on a page or in a worker; shared by all pages of the origin. `name`: of the database. */
export function createIndexedDbStore(name = "ringwise"): TunedStore {
  return {
    name: `IndexedDB ${name}`,
    get: (key) => useDatabase<unknown>(name, "readonly", (store) => store.get(key)),
    async set(key, record) {
      await useDatabase(name, "readwrite", (store) => store.put(record, key));
    },
  };
}

type NodeProcess = Pick<typeof process, "getBuiltinModule" | "env" | "platform" | "pid">;

const nodeProcess = (): NodeProcess | undefined => {
  const found = (globalThis as { process?: Partial<NodeProcess> }).process;
  return typeof found?.getBuiltinModule === "function" ? (found as NodeProcess) : undefined;
};

/** A file name that shows the key and is never another key's: readable part and 64 bits of FNV-1a over all of it. */
function fileName(key: string): string {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(key)) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  const readable = key
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .slice(0, 80);
  return `${readable}-${hash.toString(16).padStart(16, "0")}.json`;
}

/** $XDG_CACHE_HOME/ringwise/tuned, or where the platform keeps caches. */
function cacheFolder({ env, platform, getBuiltinModule }: NodeProcess): string {
  const { join } = getBuiltinModule("node:path");
  const home = getBuiltinModule("node:os").homedir();
  const base =
    env.XDG_CACHE_HOME ||
    (platform === "win32" && env.LOCALAPPDATA) ||
    (platform === "darwin" ? join(home, "Library", "Caches") : join(home, ".cache"));
  return join(base, "ringwise", "tuned");
}

/**
 * Tuned choices as files of a folder in Node, one file a key, so that programs that write at once neither lose nor mix
 * anything: each file is written beside and renamed into place.
 * @param folder default: $XDG_CACHE_HOME/ringwise/tuned, or where the platform keeps caches
 * @throws {OptionError} where there is no Node 20.16 or newer
 */
export function createFileStore(folder?: string): TunedStore {
  const node = nodeProcess();
  if (!node) throw new OptionError("createFileStore: expected Node 20.16 or newer, got a platform without files");
  const files = node.getBuiltinModule("node:fs").promises;
  const { join } = node.getBuiltinModule("node:path");
  const place = folder ?? cacheFolder(node);
  return {
    name: `files in ${place}`,
    async get(key) {
      const text = await files.readFile(join(place, fileName(key)), "utf8").catch((error: NodeJS.ErrnoException) => {
        if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
        throw error;
      });
      if (text === undefined) return undefined;
      const kept = JSON.parse(text) as { key?: unknown; record?: unknown } | null;
      return kept?.key === key ? kept.record : undefined;
    },
    async set(key, record: TunedRecord) {
      await files.mkdir(place, { recursive: true });
      const path = join(place, fileName(key));
      const beside = `${path}.${node.pid}-${Math.random().toString(36).slice(2)}.new`;
      try {
        await files.writeFile(beside, `${JSON.stringify({ key, record }, null, 1)}\n`);
        await files.rename(beside, path);
      } catch (error) {
        await files.rm(beside, { force: true });
        throw error;
      }
    },
  };
}

/** The store of this platform: IndexedDB, else files in Node; null where there is neither. */
export function defaultStore(): TunedStore | null {
  if ("indexedDB" in globalThis) return createIndexedDbStore();
  return nodeProcess() ? createFileStore() : null;
}
