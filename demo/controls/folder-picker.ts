/** A model's folder on this machine: File System Access, a plain folder input, or a drop. */
import { byId } from "../dom.ts";
import { formatCount } from "../format.ts";
import type { ModelChoice } from "../protocol.ts";
import { setControl } from "./settings.ts";

type FolderChoice = Extract<ModelChoice, { kind: "folder" | "files" }>;

/** Not in TypeScript's DOM library yet. */
interface PickerWindow {
  showDirectoryPicker?: (options: { id: string; mode: "read" }) => Promise<FileSystemDirectoryHandle>;
}

/** Holds the folder that was chosen last. */
export class FolderPicker {
  choice: FolderChoice | undefined;
  private readonly status = byId("folder-status");
  private readonly input = byId<HTMLInputElement>("folder-input");
  private count = 0;

  constructor() {
    byId("choose-folder").addEventListener("click", () => this.pick());
    this.input.addEventListener("change", () => {
      if (this.input.files?.length) this.useFiles([...this.input.files]);
      // So that choosing the same folder again is heard again.
      this.input.value = "";
    });
  }

  /** Files of a folder, from an input or a drop. */
  useFiles(files: File[]): void {
    // Only what lies in the folder itself: folders in it (onnx/, say) have a config.json of their own.
    const direct = files.filter((file) => file.webkitRelativePath.split("/").length <= 2);
    const name = files[0]?.webkitRelativePath.split("/")[0] || files[0]?.name || "dropped files";
    this.set({ kind: "files", key: this.nextKey(), name, files: direct }, `${formatCount(direct.length)} files`);
  }

  useHandle(handle: FileSystemDirectoryHandle): void {
    this.set({ kind: "folder", key: this.nextKey(), name: handle.name, handle }, "folder");
  }

  private async pick(): Promise<void> {
    const { showDirectoryPicker } = window as PickerWindow;
    if (!showDirectoryPicker) return this.input.click();
    try {
      this.useHandle(await showDirectoryPicker({ id: "ringwise-model", mode: "read" }));
    } catch (error) {
      // The person closed the dialog: nothing changes. Where the dialog is forbidden the plain input still works.
      if ((error as Error).name !== "AbortError") this.input.click();
    }
  }

  private set(choice: FolderChoice, what: string): void {
    this.choice = choice;
    this.status.textContent = `Chosen: ${choice.name} (${what}).`;
    setControl("model", "folder");
  }

  private nextKey(): string {
    return `folder-${++this.count}`;
  }
}
