/** Dropping onto the page: one text file is a text to read, a folder or a model's files are a model. */
import type { FolderPicker } from "./folder-picker.ts";
import type { TextPicker } from "./text-picker.ts";

const MODEL_FILE = /(\.safetensors|\.safetensors\.index\.json|^config\.json|^tokenizer\.json)$/;

/** Not in TypeScript's DOM library yet. */
interface HandleItem {
  getAsFileSystemHandle?: () => Promise<FileSystemHandle | null>;
}

/** The files of a dropped folder, for browsers without file system handles. Folders in it are left out. */
async function filesOf(folder: FileSystemDirectoryEntry): Promise<File[]> {
  const reader = folder.createReader();
  const files: File[] = [];
  // Entries come in batches; an empty one ends the list.
  for (;;) {
    const batch = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (batch.length === 0) return files;
    for (const entry of batch)
      if (entry.isFile)
        files.push(await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)));
  }
}

async function take(items: DataTransferItem[], folder: FolderPicker, text: TextPicker): Promise<void> {
  // Everything has to be asked for before the first await: afterwards the items are empty.
  const handles = items.map((item) => (item as HandleItem).getAsFileSystemHandle?.() ?? Promise.resolve(null));
  const entries = items.map((item) => item.webkitGetAsEntry());
  const files = items.map((item) => item.getAsFile());
  const handle = (await Promise.all(handles.map((each) => each.catch(() => null)))).find(
    (each) => each?.kind === "directory",
  );
  if (handle) return folder.useHandle(handle as FileSystemDirectoryHandle);
  const directory = entries.find((entry) => entry?.isDirectory);
  if (directory) return folder.useFiles(await filesOf(directory as FileSystemDirectoryEntry));
  const plain = files.filter((file) => file !== null);
  if (plain.some((file) => MODEL_FILE.test(file.name))) return folder.useFiles(plain);
  if (plain[0]) await text.useFile(plain[0]);
}

/** Listens for drops on the whole page. */
export function bindDrop(folder: FolderPicker, text: TextPicker, onError: (error: Error) => void): void {
  const isFileDrag = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
  const show = (isOver: boolean) => document.body.classList.toggle("dropping", isOver);
  addEventListener("dragover", (event) => {
    if (!isFileDrag(event)) return;
    event.preventDefault();
    show(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && show(false));
  addEventListener("drop", (event) => {
    show(false);
    if (!isFileDrag(event)) return;
    event.preventDefault();
    const items = [...event.dataTransfer!.items].filter((item) => item.kind === "file");
    take(items, folder, text).catch(onError);
  });
}
