/** One line and one bar: loading, reading (tokens/s, time left), answering, done. */

import type { LoadProgress } from "../../src/index.ts";
import { byId } from "../dom.ts";
import { formatBytes, formatCount, formatFigure, formatSeconds } from "../format.ts";
import type { PrefillFacts } from "../protocol.ts";

/** Percent between two announcements to screen readers. */
const ANNOUNCE_EVERY = 25;

/** Writes the status line, moves the bar, and announces only what is worth interrupting for. */
export class StatusView {
  private readonly status = byId("status");
  private readonly figures = byId("status-figures");
  private readonly bar = byId<HTMLProgressElement>("progress");
  private readonly announcer = byId("announcer");
  private announced = 0;

  /** Something without a measure: "Starting", "Stopped". `share` fills the bar; undefined leaves it moving. */
  say(text: string, share: number | undefined, figures = ""): void {
    this.write(text, figures, share);
    this.announcer.textContent = text;
    this.announced = 0;
  }

  load(progress: LoadProgress): void {
    const { loadedBytes, totalBytes } = progress;
    const figures = totalBytes > 0 ? `${formatBytes(loadedBytes)} of ${formatBytes(totalBytes)}` : "";
    this.write(progress.message, figures, totalBytes > 0 ? loadedBytes / totalBytes : undefined);
  }

  prefill(facts: PrefillFacts, what = "Reading"): void {
    const { doneTokens, totalTokens, tokensPerSecond, secondsLeft } = facts;
    const share = totalTokens > 0 ? doneTokens / totalTokens : 0;
    const parts = [`${formatCount(doneTokens)} of ${formatCount(totalTokens)} tokens`];
    if (tokensPerSecond > 0) parts.push(`${formatFigure(tokensPerSecond)} tokens/s`);
    if (secondsLeft > 0 && Number.isFinite(secondsLeft)) parts.push(`${formatSeconds(secondsLeft)} left`);
    this.write(what, parts.join(" · "), share);
    const percent = Math.floor((share * 100) / ANNOUNCE_EVERY) * ANNOUNCE_EVERY;
    if (percent > this.announced && percent < 100) this.announcer.textContent = `${percent}% read`;
    this.announced = percent;
  }

  answering(newTokens: number, tokensPerSecond: number): void {
    const rate = tokensPerSecond > 0 ? ` · ${formatFigure(tokensPerSecond)} tokens/s` : "";
    this.write("Answering", `${formatCount(newTokens)} ${newTokens === 1 ? "token" : "tokens"}${rate}`, 1);
  }

  private write(text: string, figures: string, share: number | undefined): void {
    if (this.status.textContent !== text) this.status.textContent = text;
    this.figures.textContent = figures;
    if (share === undefined) this.bar.removeAttribute("value");
    else this.bar.value = share;
  }
}
