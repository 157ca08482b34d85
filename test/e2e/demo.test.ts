/** The demo page at work: reading, answering, stopping, the needle grid, own texts and folders, keyboard, phone. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "puppeteer-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DemoHost, resultOf, setControl, startDemo, textOf, waitForState } from "./demo-page.ts";

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
  // One page for all of these: it keeps the model it has loaded and compiled, as a person's does.
  let page: Page;

  beforeAll(async () => {
    page = await demo.open("autorun=1&worldSize=4&layout=zigzag&length=1024&depth=50");
  });

  afterAll(async () => {
    await page?.close();
    expect(demo.errors.splice(0)).toEqual([]);
  });

  test("on a ring of 4 finds the needle, and shows ring, timeline, memory and figures", async () => {
    const result = await resultOf(page);
    expect(result).toMatchObject({ state: "done", found: true });
    expect(result.answer).toContain(result.expected);
    const { statistics } = result;
    // One token is one byte, and BOS.
    expect(statistics!.promptTokens).toBe(1025);
    expect(statistics!.ring).toMatchObject({ worldSize: 4, layout: "zigzag", blockMemory: "gpu" });
    expect(statistics!.ring.ranks.map((rank) => rank.rank)).toEqual([0, 1, 2, 3]);
    for (const rank of statistics!.ring.ranks) expect(rank.gpuBytes).toBeGreaterThan(0);

    await page.waitForFunction((text) => document.getElementById("answer")?.textContent === text, {}, result.answer);
    expect(await textOf(page, "#verdict")).toContain("Needle found");
    expect(await textOf(page, "#figures")).toMatch(/Reading\s+[\d.,]+\s*tokens\/s/);
    expect(await textOf(page, "#figures")).toMatch(/Text and question\s+1,025/);
    expect(await page.$$eval(".ring-node, .ring-block", (shapes) => shapes.length)).toBe(8);
    const memory = await page.$$eval("#memory .memory-label", (labels) => labels.map((label) => label.textContent));
    expect(memory).toHaveLength(4);
    for (const label of memory) expect(label).toMatch(/^[\d.,]+\u00a0[KM]iB$/);
    await page.click(".rank-details summary");
    expect(await page.$$eval("#rank-table tbody tr", (rows) => rows.length)).toBe(4);
    const colors = await page.$eval("#timeline", (canvas) => {
      const { width, height } = canvas as HTMLCanvasElement;
      const { data } = (canvas as HTMLCanvasElement).getContext("2d")!.getImageData(0, 0, width, height);
      return new Set(new Uint32Array(data.buffer)).size;
    });
    expect(colors).toBeGreaterThan(4);
  });

  test("goes on in a hidden tab, stops at once, keeps the inputs, and runs again on the same model", async () => {
    await setControl(page, "length", "16384");
    await page.click("#run");
    await waitForState(page, "prefill");
    await page.waitForFunction("window.ringwiseDemo.progress?.doneTokens > 0", { timeout: 60_000 });
    await setControl(page, "worldSize", "6");
    expect(await page.$$eval(".ring-node", (nodes) => nodes.length)).toBe(4);
    const other = await demo.browser.newPage();
    await other.bringToFront();
    const seen = await page.evaluate(() => window.ringwiseDemo.progress!.doneTokens);
    expect(await page.evaluate(() => document.visibilityState)).toBe("hidden");
    await page.waitForFunction((tokens) => window.ringwiseDemo.progress!.doneTokens > tokens, { polling: 100 }, seen);
    await other.close();
    await page.bringToFront();
    const stopMs = await page.evaluate(async () => {
      const startMs = performance.now();
      document.getElementById("stop")!.click();
      await window.ringwiseDemo.result;
      return performance.now() - startMs;
    });
    expect(stopMs).toBeLessThan(200);
    expect(await page.evaluate(() => window.ringwiseDemo.state)).toBe("stopped");
    expect(await page.$eval("select[name=length]", (field) => (field as HTMLSelectElement).value)).toBe("16384");
    await setControl(page, "length", "1024");
    await setControl(page, "seed", "5");
    await page.click("#run");
    expect(await resultOf(page)).toMatchObject({ state: "done", found: true });
    // The ring in view is the one that ran, then the one that is chosen, whenever that was.
    const ranksInView = () => page.$$eval(".ring-node", (nodes) => nodes.length);
    expect(await ranksInView()).toBe(6);
    await setControl(page, "worldSize", "4");
    expect(await ranksInView()).toBe(4);
  });

  test("continues a passage of the person's own text, which stays out of the text field where it is long", async () => {
    const lines = Array.from(
      { length: 460 },
      (_, i) => `Shelf ${i * 7919} holds ${(i * 104729) % 99991} jars of quince.`,
    );
    const text = lines.join("\n").padEnd(20_100, ".");
    await page.click("input[name=text][value=own]");
    await page.focus("#own-text");
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
    expect(await textOf(page, "#big-text")).toMatch(/Pasted text\s+19\.6\sKiB/);
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("big-text-remove");
    // To answer from, its first lines are enough: how long a text may be is the needle test's business.
    await page.click("#big-text-remove");
    await page.$eval(
      "#own-text",
      (field, short) => ((field as HTMLTextAreaElement).value = short),
      lines.slice(0, 12).join("\n"),
    );
    const [begin, end] = [lines[7]!.slice(0, 25), lines[7]!.slice(25)];
    await page.type("textarea[name=question]", begin);
    await page.click("#run");
    const result = await resultOf(page);
    expect(result).toMatchObject({ state: "done", answer: end });
    expect(await textOf(page, "#verdict")).toBe("");
    await page.click("input[name=text][value=generated]");
    await page.$eval("textarea[name=question]", (field) => ((field as HTMLTextAreaElement).value = ""));
  });

  test("fills the needle grid, as a table too, with blocks streamed from the host", async () => {
    await setControl(page, "worldSize", "2");
    await setControl(page, "layout", "striped");
    await setControl(page, "blockMemory", "host");
    await setControl(page, "needleLength", "1024");
    await setControl(page, "needleDepths", "3");
    await page.focus("#needle-run");
    await page.keyboard.press("Enter");
    await waitForState(page, "loading", "needle");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("stop");
    const result = await resultOf(page);
    expect(result.cells?.map(({ length, depth, isFound }) => [length, depth, isFound])).toEqual([
      [1024, 0, true],
      [1024, 50, true],
      [1024, 100, true],
    ]);
    const texts = (selector: string) => page.$$eval(selector, (cells) => cells.map((cell) => cell.textContent));
    expect(await texts("#needle-grid thead th")).toEqual(["Depth", "1K"]);
    expect(await texts("#needle-grid tbody th[scope=row]")).toEqual(["0%", "50%", "100%"]);
    expect(await texts("#needle-grid td .visually-hidden")).toEqual(["found", "found", "found"]);
    expect(await textOf(page, "#needle-summary")).toBe("3 of 3 found");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("needle-run");
  });
});

describe("the person's own", () => {
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
      await waitForState(page, "loading", "prefill");
      expect(await page.evaluate(() => document.activeElement?.id)).toBe("stop");
      // In a field the key is the field's own.
      await page.focus("textarea[name=question]");
      await page.keyboard.press("Escape");
      expect(await page.evaluate(() => window.ringwiseDemo.state)).toMatch(/^(loading|prefill)$/);
      await page.focus("#stop");
      await page.keyboard.press("Escape");
      expect((await resultOf(page)).state).toBe("stopped");
      expect(await page.evaluate(() => document.activeElement?.id)).toBe("run");
    }));

  test("says what the button will do: kinds of attention other than the ring have one rank", () =>
    withPage("worldSize=3", async (page) => {
      expect(await textOf(page, "#answer-hint")).toContain("read split over 3 ranks");
      await setControl(page, "attention", "flash");
      expect(await textOf(page, "#answer-hint")).toContain("read on one rank");
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
