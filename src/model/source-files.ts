/** Models on this computer, in a browser: chosen or dropped files, a dropped folder, a folder's handle. */
import { ModelSourceError, OptionError } from "../errors.ts";
import type { ModelFiles } from "./types.ts";

/** Bytes of a file that was chosen. @throws {ModelSourceError} where it changed or went away since. */
async function readFile(
  file: File,
  range: { start: number; end: number } | undefined,
  signal?: AbortSignal,
): Promise<Uint8Array<ArrayBuffer>> {
  signal?.throwIfAborted();
  const { start, end } = range ?? { start: 0, end: file.size };
  if (end > file.size)
    throw new ModelSourceError(`${file.name}: expected bytes ${start} to ${end}, got a file of ${file.size} bytes`);
  const buffer = await file
    .slice(start, end)
    .arrayBuffer()
    .catch((cause: Error) => {
      throw new ModelSourceError(`${file.name}: could not be read (was it changed or moved?): ${cause.message}`, {
        cause,
      });
    });
  signal?.throwIfAborted();
  if (buffer.byteLength !== end - start)
    throw new ModelSourceError(`${file.name}: expected ${end - start} bytes at ${start}, got ${buffer.byteLength}`);
  return new Uint8Array(buffer);
}

/** A file's place below the folder that was chosen ("model/onnx/x" -> "onnx/x"), or its name. */
function pathOf(file: File): string {
  const path = file.webkitRelativePath || file.name;
  return file.webkitRelativePath ? path.slice(path.indexOf("/") + 1) : path;
}

/**
 * The files that a person chose or dropped; a folder chosen by `<input webkitdirectory>` counts from its inside.
 * @throws {OptionError} for an empty list.
 */
export function openFiles(list: readonly File[]): ModelFiles {
  if (list.length === 0) throw new OptionError("openFiles: expected the files of a model, got an empty list");
  const files = new Map(list.map((file) => [pathOf(file), file]));
  const folder = list[0]!.webkitRelativePath?.split("/")[0];
  return {
    name: folder || (list.length === 1 ? list[0]!.name : `${list.length} files`),
    async size(path, signal) {
      signal?.throwIfAborted();
      return files.get(path)?.size;
    },
    async read(path, range, signal) {
      const file = files.get(path);
      if (!file) throw new ModelSourceError(`expected a file named ${path} among those chosen, got none`);
      return readFile(file, range, signal);
    },
  };
}

/** The files of a folder that a person picked (File System Access) or dropped. */
export function openDirectory(directory: FileSystemDirectoryHandle): ModelFiles {
  const open = async (path: string): Promise<File | undefined> => {
    const parts = path.split("/");
    const name = parts.pop()!;
    try {
      let place = directory;
      for (const part of parts) place = await place.getDirectoryHandle(part);
      return await (await place.getFileHandle(name)).getFile();
    } catch (cause) {
      const kind = (cause as Error).name;
      // TypeMismatchError: a folder of that name. TypeError: a name that no file can have.
      if (kind === "NotFoundError" || kind === "TypeMismatchError" || kind === "TypeError") return undefined;
      throw new ModelSourceError(`${directory.name}/${path}: could not be opened: ${(cause as Error).message}`, {
        cause,
      });
    }
  };
  return {
    name: directory.name,
    async size(path, signal) {
      signal?.throwIfAborted();
      return (await open(path))?.size;
    },
    async read(path, range, signal) {
      signal?.throwIfAborted();
      const file = await open(path);
      if (!file) throw new ModelSourceError(`${directory.name}: expected a file named ${path}, got none`);
      return readFile(file, range, signal);
    },
  };
}

/** The files directly within a dropped folder, for browsers without folder handles. */
async function listEntry(entry: FileSystemDirectoryEntry): Promise<File[]> {
  const reader = entry.createReader();
  const files: File[] = [];
  for (;;) {
    // A reader gives its entries in batches, and an empty one at the end.
    const batch = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (batch.length === 0) return files;
    for (const child of batch)
      if (child.isFile)
        files.push(await new Promise<File>((resolve, reject) => (child as FileSystemFileEntry).file(resolve, reject)));
  }
}

/**
 * What a drop event carries, as a source for `loadModel`: a folder's handle, or the files. Call it within the event's
 * handler, before any await: the browser empties `dataTransfer` afterwards.
 * @throws {OptionError} where nothing of a file was dropped. @throws {ModelSourceError} where a folder cannot be read.
 */
export async function sourceFromDrop(dataTransfer: DataTransfer): Promise<readonly File[] | FileSystemDirectoryHandle> {
  const items = [...dataTransfer.items].filter((item) => item.kind === "file");
  if (items.length === 0) throw new OptionError("sourceFromDrop: expected files or a folder, got neither");
  type WithHandle = DataTransferItem & { getAsFileSystemHandle?: () => Promise<FileSystemHandle | null> };
  const [first] = items as [WithHandle];
  const loose = items.map((item) => item.getAsFile()).filter((file) => file !== null);
  const entry = items.length === 1 ? first.webkitGetAsEntry?.() : undefined;
  if (!entry?.isDirectory) return loose;
  try {
    const handle = await first.getAsFileSystemHandle?.();
    if (handle?.kind === "directory") return handle as FileSystemDirectoryHandle;
    return await listEntry(entry as FileSystemDirectoryEntry);
  } catch (cause) {
    throw new ModelSourceError(`${entry.name}: could not be read: ${(cause as Error).message}`, { cause });
  }
}
