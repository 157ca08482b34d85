/** Whole small files of a model: config, index, tokenizer. */
import { ModelFormatError } from "../errors.ts";
import type { ModelFiles } from "./types.ts";

/** Largest file that is read whole, in bytes. (The largest tokenizer.json of today has some 35 MB.) */
const MAX_BYTE_LENGTH = 512 * 2 ** 20;

/** A file's bytes, or undefined where it is absent. @throws {ModelSourceError} @throws {ModelFormatError} for one too large. */
export async function readOptional(
  files: ModelFiles,
  path: string,
  signal?: AbortSignal,
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const size = await files.size(path, signal);
  if (size === undefined) return undefined;
  if (size > MAX_BYTE_LENGTH)
    throw new ModelFormatError(`${path}: expected at most ${MAX_BYTE_LENGTH} bytes, got a file of ${size}`);
  return files.read(path, { start: 0, end: size }, signal);
}
