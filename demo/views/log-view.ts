/** What happened in the ring: sentences with the time of day, the latest on top. */
import { byId, html } from "../dom.ts";
import type { LogLine } from "../peers/ring-story.ts";

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** Keeps a list of log lines true, touching only those that changed. */
export class LogView {
  private readonly root = byId("log");
  private readonly list = byId("log-lines");
  private readonly shown = new Map<number, { item: HTMLElement; text: HTMLElement }>();

  show(lines: readonly LogLine[]): void {
    this.root.hidden = lines.length === 0;
    const ids = new Set(lines.map(({ id }) => id));
    for (const [id, { item }] of this.shown)
      if (!ids.has(id)) {
        item.remove();
        this.shown.delete(id);
      }
    for (const line of lines) {
      const known = this.shown.get(line.id);
      if (known) {
        if (known.text.textContent !== line.text) known.text.textContent = line.text;
        continue;
      }
      const date = new Date(performance.timeOrigin + line.timeMs);
      const text = html("span", {}, line.text);
      const item = html(
        "li",
        { "data-tone": line.tone },
        html("time", { datetime: date.toISOString() }, clock.format(date)),
        text,
      );
      this.list.prepend(item);
      this.shown.set(line.id, { item, text });
    }
  }
}
