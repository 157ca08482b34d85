/** The question, the answer as it streams, and whether the needle was found. */
import { byId, html } from "../dom.ts";

/** Milliseconds between two additions to the page: a screen reader hears phrases rather than letters. */
const PERIOD_MS = 120;

/** Streams text into the page. */
export class AnswerView {
  private readonly asked = byId("asked");
  private readonly answer = byId("answer");
  private readonly verdict = byId("verdict");
  private waiting = "";
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** The whole answer so far. */
  text = "";
  private expected: string | undefined;

  /** A hint in the place of an answer: what pressing the button will do. */
  invite(text: string): void {
    byId("answer-hint").textContent = text;
  }

  /** Empties the card. */
  reset(): void {
    byId("answer-hint").hidden = true;
    clearTimeout(this.timer);
    this.timer = undefined;
    this.waiting = this.text = "";
    this.expected = undefined;
    this.asked.textContent = "";
    this.answer.replaceChildren();
    this.verdict.replaceChildren();
    this.verdict.removeAttribute("data-found");
  }

  /** Another peer asked: what is known of its question, until the answer begins. */
  watch(question: string): void {
    this.asked.textContent = question;
    byId("answer-hint").hidden = question !== "";
  }

  /** What was asked, and, for a generated text, what the right answer is. */
  ask(question: string, expected: string | undefined): void {
    this.expected = expected;
    this.asked.textContent = question;
    if (expected) this.verdict.textContent = `looking for “${expected.trim()}”`;
  }

  add(text: string): void {
    byId("answer-hint").hidden = true;
    this.text += text;
    this.waiting += text;
    this.timer ??= setTimeout(() => this.show(), PERIOD_MS);
  }

  /** The answer is complete: shows the rest and the verdict. */
  finish(): void {
    this.show();
    const found = this.isFound();
    if (found === undefined) return;
    this.verdict.dataset.found = String(found);
    this.verdict.textContent = found ? "✓ Needle found" : `✗ Needle missed: it was “${this.expected!.trim()}”`;
  }

  /** The person stopped it: what came stays. */
  stop(): void {
    this.show();
    if (this.expected) this.verdict.textContent = "";
  }

  /** Whether the needle is in the answer; undefined where there is none to find. */
  isFound(): boolean | undefined {
    return this.expected === undefined ? undefined : this.text.includes(this.expected.trim());
  }

  private show(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (!this.waiting) return;
    const box = this.answer.parentElement!;
    // A long answer is followed, unless the person has scrolled back in it.
    const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    this.answer.append(html("span", {}, this.waiting));
    this.waiting = "";
    if (isAtEnd) box.scrollTop = box.scrollHeight;
  }
}
