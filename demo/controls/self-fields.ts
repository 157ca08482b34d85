/** This machine's name and the GPU memory it offers, wherever on the page the two fields stand. */
import { byId } from "../dom.ts";
import { formatBytes } from "../format.ts";
import {
  cleanName,
  defaultName,
  recallMemoryMiB,
  recallName,
  rememberMemoryMiB,
  rememberName,
} from "../peers/identity.ts";

const MIB = 1024 * 1024;

/** Binds the fields; what is in them counts when the ring is made or joined. */
export class SelfFields {
  private readonly nameField = byId<HTMLInputElement>("peer-name");
  private readonly slider = byId<HTMLInputElement>("peer-memory");
  private readonly output = byId<HTMLOutputElement>("peer-memory-output");
  private exactMiB: number | undefined;

  /** URL parameters go before what is remembered: `name`, `memoryMiB`. */
  constructor(parameters: URLSearchParams) {
    this.nameField.value = cleanName(parameters.get("name") ?? "", recallName());
    this.nameField.placeholder = defaultName();
    const asked = Number(parameters.get("memoryMiB"));
    this.exactMiB = asked >= 1 ? asked : undefined;
    this.slider.value = String(Math.round(Math.log2(this.exactMiB ?? recallMemoryMiB())));
    this.slider.addEventListener("input", () => {
      this.exactMiB = undefined;
      this.show();
      rememberMemoryMiB(this.memoryBytes / MIB);
    });
    this.nameField.addEventListener("change", () => {
      this.nameField.value = this.name;
      rememberName(this.name);
    });
    this.show();
  }

  get name(): string {
    return cleanName(this.nameField.value, defaultName());
  }

  /** Steps of the slider are powers of two, 64 MiB to 16 GiB. */
  get memoryBytes(): number {
    return Math.round((this.exactMiB ?? 2 ** Number(this.slider.value)) * MIB);
  }

  /** While in a ring both are settled. */
  set isDisabled(value: boolean) {
    this.nameField.disabled = this.slider.disabled = value;
  }

  private show(): void {
    this.output.textContent = formatBytes(this.memoryBytes);
    this.slider.setAttribute("aria-valuetext", formatBytes(this.memoryBytes));
  }
}
