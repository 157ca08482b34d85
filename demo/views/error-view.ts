/** The alert on top of the stage: what happened, what to do, and one button where one click helps. */
import { byId, html } from "../dom.ts";
import type { Explanation } from "../explain-error.ts";

const ACTIONS = { continue: "Continue with the same text", retry: "Try again" } as const;

/** Shows one error at a time. Nothing else on the page is cleared by it. */
export class ErrorView {
  private readonly root = byId("error");

  constructor(private readonly onAction: () => void) {}

  show(explanation: Explanation): void {
    const hadFocus = this.root.contains(document.activeElement);
    this.root.replaceChildren(
      html("h2", {}, explanation.title),
      html("p", { class: "what" }, explanation.what),
      html("p", { class: "todo" }, explanation.todo),
    );
    if (explanation.action) {
      const button = html(
        "button",
        { type: "button", class: "primary", id: "error-action" },
        ACTIONS[explanation.action],
      );
      button.addEventListener("click", this.onAction);
      this.root.append(button);
    }
    this.root.hidden = false;
    // Pressing the button of one error can lead to the next one.
    if (hadFocus) (this.root.querySelector("button") ?? this.root).focus({ preventScroll: true });
    this.root.scrollIntoView({ block: "nearest" });
  }

  hide(): void {
    this.root.hidden = true;
    this.root.replaceChildren();
  }
}
