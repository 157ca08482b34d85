/** The link to this ring: as text to copy, as a code to scan, and who can open it. */
import { byId } from "../dom.ts";
import { describeReach } from "../peers/reachability.ts";
import { qrCode } from "./qr.ts";

const COPIED_MS = 2500;

/** Shows an invitation under its button. */
export class InviteView {
  private readonly root = byId("invite");
  private readonly button = byId<HTMLButtonElement>("add-peer");
  private readonly link = byId<HTMLInputElement>("invite-link");
  private readonly copy = byId<HTMLButtonElement>("copy-link");
  private readonly admitAll = byId<HTMLInputElement>("admit-all");

  /** @param onAdd the button, where there is no invitation yet */
  constructor(
    private readonly onAdd: () => void,
    onAdmitAll: (isOn: boolean) => void,
  ) {
    this.button.addEventListener("click", () => {
      if (this.link.value) this.toggle(this.root.hidden);
      else this.onAdd();
    });
    this.copy.addEventListener("click", () => this.copyLink());
    this.link.addEventListener("focus", () => this.link.select());
    this.admitAll.addEventListener("change", () => onAdmitAll(this.admitAll.checked));
  }

  get isAdmittingAll(): boolean {
    return this.admitAll.checked;
  }

  set isAdmittingAll(value: boolean) {
    this.admitAll.checked = value;
  }

  /** A room is being made. */
  wait(): void {
    this.button.disabled = true;
  }

  /** There is a room: here is its link. */
  show(invitation: string): void {
    const hadFocus = document.activeElement === this.button || document.activeElement === document.body;
    this.button.disabled = false;
    this.link.value = invitation;
    byId("qr").replaceChildren(qrCode(invitation, "The link as a QR code"));
    const { protocol, hostname } = new URL(invitation);
    const reach = describeReach({ protocol, hostname, isSecure: isSecureContext });
    const note = byId("invite-reach");
    note.dataset.kind = reach.kind;
    note.textContent = reach.text;
    this.toggle(true);
    if (hadFocus) this.copy.focus({ preventScroll: true });
  }

  /** Folds the link away, or out again. */
  toggle(isOpen: boolean): void {
    this.root.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
    if (this.link.value) this.button.textContent = isOpen ? "Hide the link" : "Add another peer";
  }

  /** No room (any more). */
  reset(): void {
    this.link.value = "";
    this.button.disabled = false;
    this.toggle(false);
    this.button.textContent = "Add a peer";
    byId("qr").replaceChildren();
  }

  private async copyLink(): Promise<void> {
    let isCopied = true;
    try {
      await navigator.clipboard.writeText(this.link.value);
    } catch {
      // The clipboard is forbidden here: the link is selected, so that the keyboard can copy it.
      this.link.focus();
      this.link.select();
      isCopied = false;
    }
    this.copy.textContent = isCopied ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (this.copy.textContent = "Copy"), COPIED_MS);
  }
}
