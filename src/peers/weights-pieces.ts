/** A peer's own copy of a model, in pieces that others can ask for. */
import { ModelSourceError } from "../errors.ts";
import type { ModelFiles } from "../model/types.ts";
import { pieceCount, pieceRange, sha256 } from "./weights-manifest.ts";

/** Whoever has a model's files, or is getting them. */
export interface PieceHolder {
  /** Bytes of the file; undefined where it is absent. */
  size(file: string, signal: AbortSignal): Promise<number | undefined>;
  /** A piece, whole. Rejects where there is none. */
  piece(file: string, piece: number, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>>;
  /** SHA-256 of a piece. */
  hash(file: string, piece: number, signal: AbortSignal): Promise<string>;
}

/** Files that can be read again at any time: a folder, a cache, an address. */
export class OwnPieces implements PieceHolder {
  private readonly hashes = new Map<string, Promise<string>>();

  constructor(
    private readonly files: ModelFiles,
    private readonly pieceBytes: number,
  ) {}

  size(file: string, signal: AbortSignal): Promise<number | undefined> {
    return this.files.size(file, signal);
  }

  async piece(file: string, piece: number, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    const size = (await this.files.size(file, signal)) ?? 0;
    if (piece >= pieceCount(size, this.pieceBytes))
      throw new ModelSourceError(`weights: expected a piece of ${file} (${size} bytes), got number ${piece}`);
    return this.files.read(file, pieceRange(size, this.pieceBytes, piece), signal);
  }

  hash(file: string, piece: number, signal: AbortSignal): Promise<string> {
    const key = `${piece} ${file}`;
    let hash = this.hashes.get(key);
    if (!hash) {
      hash = this.piece(file, piece, signal).then(sha256);
      this.hashes.set(key, hash);
      hash.catch(() => this.hashes.delete(key));
    }
    return hash;
  }
}
