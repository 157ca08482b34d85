/** The page of one who was sent a link: what joining means, a name, what is offered, and how far it has come. */
import type { LoadProgress, PeerStatus } from "../../src/index.ts";
import { byId } from "../dom.ts";
import { formatBytes } from "../format.ts";

/** Milliseconds without anyone there after which it is said that the ring may be gone. */
const LONELY_MS = 8000;

/** Stands where the form stands on a page that leads. */
export class JoinView {
  private readonly root = byId("join");
  private readonly text = byId("join-text");
  private readonly invited = byId("join-text").textContent!;
  private readonly button = byId<HTMLButtonElement>("join-button");
  private readonly leave = byId<HTMLButtonElement>("leave");
  private readonly progress = byId("join-progress");
  private readonly state = byId("join-state");
  private readonly figures = byId("join-figures");
  private readonly bar = byId<HTMLProgressElement>("join-bar");
  private shown = "";
  private lonely: ReturnType<typeof setTimeout> | undefined;

  constructor(onJoin: () => void, onLeave: () => void) {
    this.root.addEventListener("submit", (event) => {
      event.preventDefault();
      onJoin();
    });
    this.leave.addEventListener("click", onLeave);
  }

  /** Takes the form's place. What this machine is called and offers moves here. */
  open(): void {
    this.root.hidden = false;
    byId("controls").hidden = byId("needle-card").hidden = byId("self-details").hidden = true;
    byId("peers-intro").hidden = true;
    byId("join-fields").append(byId("self-fields"));
    byId("self-fields").classList.remove("pair");
    this.outside("Join a ring", this.invited, "Join the ring");
  }

  /** Gives the form its place back: this page leads (or is alone). */
  close(): void {
    if (this.root.hidden) return;
    const hadFocus = this.root.contains(document.activeElement);
    this.root.hidden = true;
    byId("controls").hidden = byId("needle-card").hidden = byId("self-details").hidden = false;
    byId("peers-intro").hidden = false;
    byId("self-details").append(byId("self-fields"));
    byId("self-fields").classList.add("pair");
    delete document.documentElement.dataset.role;
    if (hadFocus) byId("peers-heading").focus({ preventScroll: true });
  }

  /** The button was pressed. */
  joining(): void {
    const hadFocus = document.activeElement === this.button;
    document.documentElement.dataset.role = "peer";
    this.button.hidden = true;
    this.leave.hidden = false;
    this.leave.textContent = "Cancel";
    this.progress.hidden = false;
    this.say("Looking for the ring", undefined);
    clearTimeout(this.lonely);
    this.lonely = setTimeout(
      () => this.say("Nobody has answered yet. Is the page that made the link still open?", undefined),
      LONELY_MS,
    );
    if (hadFocus) this.leave.focus({ preventScroll: true });
  }

  /** Not in any ring: it was left, it is gone, or the link leads nowhere. */
  outside(heading: string, text: string, button = "Join again"): void {
    clearTimeout(this.lonely);
    const hadFocus = this.leave === document.activeElement;
    // One that was in a ring keeps what it saw there.
    if (document.documentElement.dataset.role !== "peer") document.documentElement.dataset.role = "outside";
    byId("join-heading").textContent = heading;
    this.text.textContent = text;
    this.button.hidden = false;
    this.button.textContent = button;
    this.leave.hidden = this.progress.hidden = true;
    this.shown = "";
    if (hadFocus) this.button.focus({ preventScroll: true });
  }

  load(progress: LoadProgress): void {
    const { loadedBytes, totalBytes, message } = progress;
    const share = totalBytes > 0 ? loadedBytes / totalBytes : undefined;
    this.say(message, share, totalBytes > 0 ? `${formatBytes(loadedBytes)} of ${formatBytes(totalBytes)}` : "");
  }

  /** How this machine fares, and whose ring it is. */
  show(self: PeerStatus | undefined, leader: PeerStatus | undefined): void {
    if (!self || !this.button.hidden) return;
    if (leader) clearTimeout(this.lonely);
    const whose = leader && !leader.isSelf ? leader.name : undefined;
    const key = `${self.state} ${whose ?? ""}`;
    if (key === this.shown) return;
    this.shown = key;
    byId("join-heading").textContent = whose ? `In the ring of ${whose}` : "Joining a ring";
    this.text.textContent = whose
      ? `${whose} leads this ring and asks the questions. This machine holds a part of the text and computes on it, also while this tab is in the background.`
      : this.invited;
    this.leave.textContent = whose ? "Leave" : "Cancel";
    if (self.state === "asking") this.say(`Waiting for ${whose ?? "the leader"} to let you in`, undefined);
    else if (self.state === "connecting") this.say(leader ? "Connecting" : "Looking for the ring", undefined);
    else if (self.state === "ready") this.say("Ready: waiting for a text", 1);
    else if (self.state === "working") this.say("A part of the ring", 1);
  }

  /** @param share 0 to 1; undefined leaves the bar moving */
  private say(text: string, share: number | undefined, figures = ""): void {
    if (this.state.textContent !== text) this.state.textContent = text;
    this.figures.textContent = figures;
    if (share === undefined) this.bar.removeAttribute("value");
    else this.bar.value = share;
  }
}
