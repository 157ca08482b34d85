/** The person’s own text: short ones in the field, long ones (a book) held aside, with their beginning shown. */
import { byId } from "../dom.ts";
import { formatBytes, formatCount } from "../format.ts";
import { setControl } from "./settings.ts";

/** Characters above which a text stays out of the text field: laying out megabytes there makes a page stutter. */
const MAX_FIELD_CHARACTERS = 20_000;
const EXCERPT_CHARACTERS = 220;

/** Holds the text, wherever it came from. */
export class TextPicker {
  private readonly field = byId<HTMLTextAreaElement>("own-text");
  private readonly input = byId<HTMLInputElement>("text-input");
  private big: { name: string; text: string } | undefined;

  /** @param onError told of a chosen file that cannot be read */
  constructor(onError: (error: Error) => void) {
    this.field.addEventListener("paste", (event) => {
      const text = event.clipboardData?.getData("text/plain") ?? "";
      if (text.length <= MAX_FIELD_CHARACTERS) return;
      event.preventDefault();
      // Pasted over what is selected, as the field would do it.
      const { value, selectionStart, selectionEnd } = this.field;
      this.use("Pasted text", value.slice(0, selectionStart) + text + value.slice(selectionEnd));
    });
    byId("choose-text").addEventListener("click", () => this.input.click());
    this.input.addEventListener("change", () => {
      const file = this.input.files?.[0];
      if (file) this.useFile(file).catch(onError);
      this.input.value = "";
    });
    byId("big-text-remove").addEventListener("click", () => {
      this.use("", "");
      this.field.focus();
    });
  }

  /** The text as it stands. */
  get choice(): { name: string; text: string } {
    return this.big ?? { name: "Your text", text: this.field.value };
  }

  /** Reads a file. It rejects where the browser cannot: the file is gone, forbidden, or too large for one string. */
  async useFile(file: File): Promise<void> {
    this.use(file.name, await file.text());
  }

  /** Takes a text and shows it, whole or in excerpts. */
  use(name: string, text: string): void {
    const isBig = text.length > MAX_FIELD_CHARACTERS;
    const hadFocus = document.activeElement?.matches("#own-text, #choose-text");
    this.big = isBig ? { name, text } : undefined;
    this.field.value = isBig ? "" : text;
    byId("own-text-field").hidden = isBig;
    byId("own-text-note").hidden = isBig;
    byId("big-text").hidden = !isBig;
    if (isBig) {
      const words = formatCount(text.match(/\S+/g)?.length ?? 0);
      byId("big-text-name").textContent = name;
      byId("big-text-size").textContent = `${formatBytes(new Blob([text]).size)}, ${words} words`;
      byId("big-text-excerpt").textContent = `${text.slice(0, EXCERPT_CHARACTERS).trim()} …`;
    }
    setControl("text", "own");
    // The field and its note have gone, and the focus with them.
    if (isBig && hadFocus) byId("big-text-remove").focus({ preventScroll: true });
  }
}
