/** What a model's files are to peers who give them to each other: names, pieces, hashes. */
import { ModelSourceError } from "../errors.ts";
import type { ModelFiles } from "../model/types.ts";

/** Bytes of a piece: one parcel, one hash. */
export const PIECE_BYTES = 4 * 2 ** 20;
/** Largest file that peers give each other. */
export const MAX_FILE_BYTES = 2 ** 38;
/** Largest header of a safetensors file that is read for a fingerprint. */
const MAX_HEADER_BYTES = 100e6;

/**
 * Files of a model lie side by side, and have plain names. Anything else is not asked of a source: a path from a peer must
 * never reach out of the folder, nor to another address.
 */
export const isModelFile = (name: string): boolean =>
  /^[A-Za-z0-9][A-Za-z0-9._-]{0,150}\.(json|safetensors|jinja|model|txt|bin|gguf|pth)$/.test(name) &&
  !name.includes("..");

/** SHA-256 as 64 hexadecimal digits. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Pieces of a file of so many bytes. */
export const pieceCount = (size: number, pieceBytes: number): number => Math.ceil(size / pieceBytes);

/** Bytes `[start, end)` of a piece. */
export function pieceRange(size: number, pieceBytes: number, piece: number): { start: number; end: number } {
  return { start: piece * pieceBytes, end: Math.min(size, (piece + 1) * pieceBytes) };
}

/** Length of a safetensors file's header, with the 8 bytes that tell it. */
async function headerBytes(files: ModelFiles, path: string, size: number, signal?: AbortSignal): Promise<number> {
  const head = await files.read(path, { start: 0, end: Math.min(8, size) }, signal);
  const length = head.byteLength === 8 ? Number(new DataView(head.buffer, head.byteOffset).getBigUint64(0, true)) : -1;
  if (length >= 0 && length <= MAX_HEADER_BYTES && 8 + length <= size) return 8 + length;
  throw new ModelSourceError(`modelFingerprint: ${path}: expected a safetensors header, got a length of ${length}`);
}

/** Files whose weights a model consists of: one, or those that the index names. */
async function weightFiles(files: ModelFiles, signal?: AbortSignal): Promise<string[]> {
  const indexSize = await files.size("model.safetensors.index.json", signal);
  if (indexSize === undefined) return ["model.safetensors"];
  const text = new TextDecoder().decode(await files.read("model.safetensors.index.json", undefined, signal));
  const shards = new Set<unknown>(Object.values((JSON.parse(text) as { weight_map?: object }).weight_map ?? {}));
  return [...shards]
    .filter((name) => typeof name === "string")
    .filter(isModelFile)
    .sort();
}

/**
 * Tells models apart without reading their weights: SHA-256 over config.json, tokenizer.json, and of every weight file its name,
 * size and header. Two peers whose fingerprints differ must not be in one ring.
 * @throws {ModelSourceError} where a file cannot be read. Abort rejects with `signal.reason`.
 */
export async function modelFingerprint(files: ModelFiles, signal?: AbortSignal): Promise<string> {
  const parts: string[] = [];
  for (const name of ["config.json", "tokenizer.json"]) {
    const size = await files.size(name, signal);
    const bytes = size === undefined ? undefined : await files.read(name, { start: 0, end: size }, signal);
    parts.push(`${name} ${bytes ? await sha256(bytes) : "absent"}`);
  }
  for (const name of await weightFiles(files, signal)) {
    const size = await files.size(name, signal);
    if (size === undefined) parts.push(`${name} absent`);
    else {
      const end = await headerBytes(files, name, size, signal);
      parts.push(`${name} ${size} ${await sha256(await files.read(name, { start: 0, end }, signal))}`);
    }
  }
  return sha256(new TextEncoder().encode(parts.join("\n")));
}
