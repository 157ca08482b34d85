/** A model in a folder on disk, for the Node side (src/model itself runs in browsers and imports nothing of Node). */
import { open, stat } from "node:fs/promises";
import { basename, isAbsolute, join, normalize, resolve } from "node:path";
import { ModelSourceError, OptionError } from "../errors.ts";
import type { ModelFiles } from "../index.ts";

const isAbsent = (error: unknown): boolean =>
  ["ENOENT", "ENOTDIR", "EISDIR"].includes((error as NodeJS.ErrnoException).code ?? "");

/**
 * The files of a folder on disk.
 * @param folder Path of the folder that holds config.json.
 * @throws {ModelSourceError} where there is no such folder.
 */
export async function openFolder(folder: string): Promise<ModelFiles> {
  const root = resolve(folder);
  const found = await stat(root).catch(() => undefined);
  if (!found?.isDirectory())
    throw new ModelSourceError(`openFolder: expected a folder, got ${found ? "a file" : "nothing"} at ${root}`);
  const locate = (path: string): string => {
    const inside = normalize(path);
    if (isAbsolute(inside) || inside.startsWith(".."))
      throw new OptionError(`openFolder: expected a path inside of ${root}, got "${path}"`);
    return join(root, inside);
  };
  const size = async (path: string): Promise<number | undefined> => {
    try {
      const entry = await stat(locate(path));
      return entry.isFile() ? entry.size : undefined;
    } catch (error) {
      if (isAbsent(error)) return undefined;
      throw error;
    }
  };
  return {
    name: basename(root),
    size,
    async read(path, range, signal) {
      signal?.throwIfAborted();
      const length = await size(path);
      if (length === undefined) throw new ModelSourceError(`${root}: expected a file named ${path}, got none`);
      const { start, end } = range ?? { start: 0, end: length };
      if (end > length)
        throw new ModelSourceError(`${path}: expected bytes ${start} to ${end}, got a file of ${length} bytes`);
      const bytes = new Uint8Array(end - start);
      const file = await open(locate(path), "r").catch((cause: Error) => {
        throw new ModelSourceError(`${path}: could not be opened: ${cause.message}`, { cause });
      });
      try {
        for (let done = 0; done < bytes.byteLength; ) {
          const { bytesRead } = await file.read(bytes, done, bytes.byteLength - done, start + done);
          signal?.throwIfAborted();
          if (bytesRead === 0)
            throw new ModelSourceError(`${path}: expected ${bytes.byteLength} bytes at ${start}, got ${done}`);
          done += bytesRead;
        }
      } finally {
        await file.close();
      }
      return bytes;
    },
  };
}
