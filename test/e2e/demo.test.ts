/** The demo page at work: reading, answering, stopping, the needle grid, own texts and folders, keyboard, phone. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "puppeteer-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DemoHost, resultOf, startDemo, textOf, waitForState } from "./demo-page.ts";

let demo: DemoHost;

beforeAll(async () => {
  demo = await startDemo();
});

afterAll(async () => {
  await demo?.close();
});

/** One page for one test. */
async function withPage(query: string, use: (page: Page) => Promise<void>): Promise<void> {
  const page = await demo.open(query);
  try {
    await use(page);
    expect(demo.errors).toEqual([]);
  } finally {
    demo.errors.length = 0;
    await page.close();
  }
}

describe("a run", () => {
  test("on a ring of 4 finds the needle, and shows ring, timeline, memory and figures", () =>
    withPage("autorun=1&worldSize=4&layout=zigzag&length=1024&depth=50", async (page) => {
      const result = await resultOf(page);
      expect(result).toMatchObject({ state: "done", found: true });
      expect(result.answer).toContain(result.expected);
      const { statistics } = result;
      // One token is one byte, and BOS.
      expect(statistics!.promptTokens).toBe(1025);
      expect(statistics!.ring).toMatchObject({ worldSize: 4, layout: "zigzag", blockMemory: "gpu" });
      expect(statistics!.ring.ranks.map((rank) => rank.rank)).toEqual([0, 1, 2, 3]);
      for (const rank of statistics!.ring.ranks) expect(rank.gpuBytes).toBeGreaterThan(0);

      await page.waitForFunction(
        (answer) => document.getElementById("answer")?.textContent === answer,
        {},
        result.answer,
      );
      expect(await textOf(page, "#verdict")).toContain("Needle found");
      expect(await textOf(page, "#figures")).toMatch(/Reading\s+[\d.,]+\s*tokens\/s/);
      expect(await textOf(page, "#figures")).toMatch(/Text and question\s+1,025/);
      expect(await page.$$eval(".ring-node, .ring-block", (shapes) => shapes.length)).toBe(8);
      expect(await page.$$eval("#memory li", (rows) => rows.map((row) => row.textContent))).not.toContain(
        expect.stringContaining("–"),
      );
      await page.click(".rank-details summary");
      expect(await page.$$eval("#rank-table tbody tr", (rows) => rows.length)).toBe(4);
      const colors = await page.$eval("#timeline", (canvas) => {
        const { width, height } = canvas as HTMLCanvasElement;
        const { data } = (canvas as HTMLCanvasElement).getContext("2d")!.getImageData(0, 0, width, height);
        return new Set(new Uint32Array(data.buffer)).size;
      });
      expect(colors).toBeGreaterThan(4);
    }));

  test("streams host blocks, other layouts and other seeds to the same kind of answer", () =>
    withPage("autorun=1&worldSize=3&layout=striped&blockMemory=host&length=700&depth=10&seed=5", async (page) => {
      const result = await resultOf(page);
      expect(result).toMatchObject({ state: "done", found: true });
      expect(result.statistics!.ring).toMatchObject({ worldSize: 3, layout: "striped", blockMemory: "host" });
    }));

  test("stops at once, keeps the inputs, and runs again on the same model", () =>
    withPage("autorun=1&worldSize=4&length=16384&depth=30", async (page) => {
      await waitForState(page, "prefill");
      await page.waitForFunction("window.ringwiseDemo.progress !== undefined", { timeout: 60_000 });
      const stopMs = await page.evaluate(async () => {
        const startMs = performance.now();
        document.getElementById("stop")!.click();
        await window.ringwiseDemo.result;
        return performance.now() - startMs;
      });
      expect(stopMs).toBeLessThan(200);
      expect(await page.evaluate(() => window.ringwiseDemo.state)).toBe("stopped");
      expect(await page.$eval("select[name=length]", (field) => (field as HTMLSelectElement).value)).toBe("16384");
      await page.select("select[name=length]", "1024");
      await page.click("#run");
      expect(await resultOf(page)).toMatchObject({ state: "done", found: true });
    }));

  test("fills the needle grid, as a table too", () =>
    withPage("autorun=needle&worldSize=2&needleLength=1024&needleDepths=3", async (page) => {
      const result = await resultOf(page);
      expect(result.cells?.map(({ length, depth, isFound }) => [length, depth, isFound])).toEqual([
        [1024, 0, true],
        [1024, 50, true],
        [1024, 100, true],
      ]);
      expect(await page.$$eval("#needle-grid thead th", (cells) => cells.map((cell) => cell.textContent))).toEqual([
        "Depth",
        "1K",
      ]);
      expect(
        await page.$$eval("#needle-grid tbody th[scope=row]", (cells) => cells.map((cell) => cell.textContent)),
      ).toEqual(["0%", "50%", "100%"]);
      expect(
        await page.$$eval("#needle-grid td .visually-hidden", (cells) => cells.map((cell) => cell.textContent)),
      ).toEqual(["found", "found", "found"]);
      expect(await textOf(page, "#needle-summary")).toBe("3 of 3 found");
    }));
});

describe("the person's own", () => {
  test("long text is pasted aside of the text field, and a passage of it continued", () =>
    withPage("worldSize=4&maxNewTokens=24", async (page) => {
      const lines = Array.from(
        { length: 460 },
        (_, i) => `Shelf ${i * 7919} holds ${(i * 104729) % 99991} jars of quince number ${i}.`,
      );
      const text = `${lines.join("\n")}\n`;
      expect(text.length).toBeGreaterThan(20_000);
      await page.click("input[name=text][value=own]");
      await page.$eval(
        "#own-text",
        (field, pasted) => {
          const clipboardData = new DataTransfer();
          clipboardData.setData("text/plain", pasted);
          field.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
        },
        text,
      );
      expect(await page.$eval("#own-text", (field) => (field as HTMLTextAreaElement).value)).toBe("");
      expect(await textOf(page, "#big-text")).toContain("Pasted text");
      // The short way: the beginning is enough to see that such a text is read (a whole one is the soak's business).
      await page.click("#big-text-remove");
      await page.$eval(
        "#own-text",
        (field, short) => ((field as HTMLTextAreaElement).value = short),
        lines.slice(0, 20).join("\n"),
      );
      await page.type("textarea[name=question]", lines[7]!.slice(0, 30));
      await page.click("#run");
      const result = await resultOf(page);
      expect(result.state).toBe("done");
      expect(lines[7]!.slice(30)).toContain(result.answer.slice(0, 8));
      expect(result.answer.slice(0, 8)).toHaveLength(8);
    }));

  test("text file is dropped anywhere on the page", () =>
    withPage("", async (page) => {
      const drop = (type: string) =>
        page.evaluate((eventType) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File(["Call me Ishmael. Some years ago."], "whale.txt", { type: "text/plain" }));
          document.body.dispatchEvent(new DragEvent(eventType, { dataTransfer, bubbles: true, cancelable: true }));
          return document.body.classList.contains("dropping");
        }, type);
      expect(await drop("dragover")).toBe(true);
      expect(await drop("drop")).toBe(false);
      await page.waitForFunction("document.getElementById('own-text').value.startsWith('Call me Ishmael')");
      expect(await page.$eval("input[name=text][value=own]", (radio) => (radio as HTMLInputElement).checked)).toBe(
        true,
      );
    }));

  const stories = join(__SHARED__, "models/stories260K");
  const hasStories = existsSync(stories);
  if (!hasStories) console.warn(`demo.test.ts: ${stories} is absent, so no local model is tested`);
  test.skipIf(!hasStories)("model folder is loaded and answers", () =>
    withPage("worldSize=2&text=own&maxNewTokens=12", async (page) => {
      await page.click("input[name=model][value=folder]");
      const input = await page.$("#folder-input");
      await (input as unknown as { uploadFile(...paths: string[]): Promise<void> }).uploadFile(stories);
      await page.waitForFunction("document.getElementById('folder-status').textContent.includes('stories260K')");
      await page.type("textarea[name=question]", "Once upon a time, there was a");
      await page.click("#run");
      const result = await resultOf(page);
      expect(result.state).toBe("done");
      expect(result.statistics!.newTokens).toBe(12);
      expect(result.answer.trim()).toMatch(/^[a-z ,.]+/i);
    }),
  );
});

describe("the page", () => {
  test("is worked from the keyboard alone: Tab to the button, Enter to run, Escape to stop", () =>
    withPage("length=8192", async (page) => {
      const visited: string[] = [];
      for (let presses = 0; presses < 30 && visited.at(-1) !== "run"; presses++) {
        await page.keyboard.press("Tab");
        const focused = await page.evaluate(() => {
          const element = document.activeElement as HTMLElement;
          const style = getComputedStyle(element);
          const label = element.nextElementSibling ? getComputedStyle(element.nextElementSibling) : undefined;
          const isVisible = style.outlineStyle !== "none" || label?.outlineStyle !== "none";
          return { name: element.id || element.getAttribute("name") || element.tagName, isVisible };
        });
        expect(focused).toMatchObject({ isVisible: true });
        visited.push(focused.name);
      }
      expect(visited.slice(0, 3)).toEqual(["A", "model", "suggest-model"]);
      expect(visited.at(-1)).toBe("run");
      await page.keyboard.press("Enter");
      await waitForState(page, "prefill");
      expect(await page.evaluate(() => document.activeElement?.id)).toBe("stop");
      await page.keyboard.press("Escape");
      expect((await resultOf(page)).state).toBe("stopped");
      expect(await page.evaluate(() => document.activeElement?.id)).toBe("run");
    }));

  test("names every control for screen readers", () =>
    withPage("", async (page) => {
      for (const [name, value] of [
        ["model", "hub"],
        ["model", "folder"],
        ["text", "own"],
      ]) {
        await page.click(`input[name=${name}][value=${value}]`);
        const nameless = await page.$$eval("input, select, textarea, button", (controls) =>
          controls
            .filter((control) => (control as HTMLElement).offsetParent !== null)
            .filter((control) => {
              const labels = [...((control as HTMLInputElement).labels ?? [])].map((label) =>
                label.textContent?.trim(),
              );
              return !(labels.some(Boolean) || control.getAttribute("aria-label") || control.textContent?.trim());
            })
            .map((control) => control.outerHTML),
        );
        expect(nameless).toEqual([]);
      }
      expect(await page.$eval("#answer", (answer) => answer.getAttribute("aria-live"))).toBe("polite");
    }));

  test("fits a phone 360 pixels wide, light and dark, without scrolling sideways", () =>
    withPage("worldSize=64&needleLength=65536", async (page) => {
      await page.setViewport({ width: 360, height: 740, isMobile: true, hasTouch: true });
      for (const scheme of ["light", "dark"]) {
        await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
        for (const [name, value] of [
          ["model", "hub"],
          ["model", "folder"],
          ["text", "own"],
          ["model", "default"],
        ]) {
          await page.$eval(`input[name=${name}][value=${value}]`, (radio) => (radio as HTMLElement).click());
          expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBe(0);
        }
      }
      const small = await page.$$eval("button, select, summary, input[type=text]", (targets) =>
        targets
          .filter((target) => (target as HTMLElement).offsetParent !== null && !target.classList.contains("link"))
          .filter((target) => target.getBoundingClientRect().height < 24)
          .map((target) => target.outerHTML),
      );
      expect(small).toEqual([]);
    }));

  test("holds still for those who asked for less motion", () =>
    withPage("", async (page) => {
      await page.emulateMediaFeatures([{ name: "prefers-reduced-motion", value: "reduce" }]);
      const moving = await page.evaluate(
        () =>
          [...document.querySelectorAll("*")].filter((element) => getComputedStyle(element).animationName !== "none")
            .length,
      );
      expect(moving).toBe(0);
    }));
});
