/** What the page says when something goes wrong: a plain sentence, what to do, and nothing lost. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import puppeteer, { type Page } from "puppeteer-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { explainError } from "../../demo/explain-error.ts";
import { ensureChrome } from "../../src/cli/chrome.ts";
import * as errors from "../../src/errors.ts";
import { type DemoHost, engineOf, resultOf, startDemo, textOf, waitForState } from "./demo-page.ts";

let demo: DemoHost;
let folder: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ringwise-demo-"));
  demo = await startDemo();
});

afterAll(async () => {
  await demo?.close();
  rmSync(folder, { recursive: true, force: true });
});

async function withPage(query: string, use: (page: Page) => Promise<void>, prepare?: (page: Page) => Promise<unknown>) {
  const page = await demo.open(query, prepare);
  try {
    await use(page);
  } finally {
    await page.close();
  }
}

/** Chooses these files as the model's folder. */
async function chooseModel(page: Page, files: Record<string, string>): Promise<void> {
  const paths = Object.entries(files).map(([name, text]) => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  });
  await page.$eval("#folder-input", (input) => input.removeAttribute("webkitdirectory"));
  const input = await page.$("#folder-input");
  await (input as unknown as { uploadFile(...paths: string[]): Promise<void> }).uploadFile(...paths);
  await page.waitForFunction("document.getElementById('folder-status').textContent.includes('Chosen')");
}

describe("without a GPU", () => {
  test("no WebGPU: says so before anything is pressed, and again when it is", () =>
    withPage(
      "",
      async (page) => {
        await page.waitForSelector("#error:not([hidden])");
        expect(await textOf(page, "#error")).toMatch(/This browser has no WebGPU[\s\S]*Chrome or Edge/);
        expect(await page.$eval("#error", (alert) => alert.getAttribute("role"))).toBe("alert");
        await page.click("#run");
        const result = await resultOf(page);
        expect(result).toMatchObject({ state: "failed", error: { name: "UnsupportedDeviceError" } });
      },
      (page) =>
        page.evaluateOnNewDocument(() => Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined })),
    ));

  test("no adapter: WebGPU is there and finds no card", async () => {
    const browser = await puppeteer.launch({
      executablePath: await ensureChrome(),
      args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-software-rasterizer"],
    });
    try {
      const page = await browser.newPage();
      await page.goto(`${demo.url}?autorun=1&length=512`);
      const result = await resultOf(page);
      expect(result).toMatchObject({ state: "failed", error: { title: "No graphics adapter was found" } });
      expect(await textOf(page, "#error")).toContain("hardware acceleration");
      expect(await textOf(page, "#adapter")).toBe("No GPU");
    } finally {
      await browser.close();
    }
  });
});

describe("a lost device", () => {
  test("is told in plain words, and one click continues with the same text", () =>
    withPage("autorun=1&worldSize=4&length=2048&depth=80", async (page) => {
      await waitForState(page, "prefill");
      await page.waitForFunction("window.ringwiseDemo.progress !== undefined", { timeout: 60_000 });
      const engine = await engineOf(page);
      await engine.evaluate(() =>
        (globalThis as unknown as { ringwiseEngine: { device: GPUDevice } }).ringwiseEngine.device.destroy(),
      );
      const lost = await resultOf(page);
      expect(lost).toMatchObject({ state: "failed", error: { name: "DeviceLostError", action: "continue" } });
      expect(await textOf(page, "#error")).toMatch(/graphics card was lost[\s\S]*text and settings are still here/);
      expect(await page.$eval("input[name=depth]", (field) => (field as HTMLInputElement).value)).toBe("80");
      await page.focus("#error-action");
      await page.keyboard.press("Enter");
      expect(await page.evaluate(() => document.activeElement?.id)).toBe("stop");
      const again = await resultOf(page);
      expect(again).toMatchObject({ state: "done", found: true });
      expect(await page.$eval("#error", (alert) => (alert as HTMLElement).hidden)).toBe(true);
    }));
});

describe("a model that cannot be had", () => {
  test("id that cannot be fetched: names it, keeps the inputs, and the default model still runs", () =>
    withPage("modelId=nobody-at-all/no-such-model&length=512&question=Where%3F", async (page) => {
      // What the Hub answers for a name it does not know: the test needs no network, nor waits for one.
      const engine = await engineOf(page);
      await engine.evaluate(() => {
        const { fetch } = globalThis;
        globalThis.fetch = async (input, init) =>
          new URL(input instanceof Request ? input.url : input, location.href).host === "huggingface.co"
            ? new Response("Invalid username or password.", { status: 401 })
            : fetch(input, init);
      });
      await page.click("#run");
      const result = await resultOf(page);
      expect(result).toMatchObject({ state: "failed", error: { name: "ModelSourceError" } });
      expect(await textOf(page, "#error")).toContain("nobody-at-all/no-such-model");
      expect(await page.$eval("textarea[name=question]", (field) => (field as HTMLTextAreaElement).value)).toBe(
        "Where?",
      );
      await page.click("input[name=model][value=default]");
      await page.click("#run");
      await waitForState(page, "prefill");
      expect(await page.$eval("#error", (alert) => (alert as HTMLElement).hidden)).toBe(true);
    }));

  test("architecture that is not supported: refused by its name", () =>
    withPage("", async (page) => {
      await chooseModel(page, {
        "config.json": JSON.stringify({ architectures: ["GPT2LMHeadModel"], model_type: "gpt2" }),
      });
      await page.click("#run");
      const result = await resultOf(page);
      expect(result).toMatchObject({ state: "failed", error: { name: "UnsupportedModelError" } });
      expect(await textOf(page, "#error")).toMatch(/not supported[\s\S]*(GPT2LMHeadModel|gpt2)/);
    }));

  test("broken config: says that the files are broken", () =>
    withPage("", async (page) => {
      await chooseModel(page, { "config.json": "{ not json" });
      await page.click("#run");
      const result = await resultOf(page);
      expect(result).toMatchObject({ state: "failed", error: { name: "ModelFormatError" } });
      expect(await textOf(page, "#error")).toContain("config.json");
    }));

  test("nothing chosen: asks for it", () =>
    withPage("", async (page) => {
      await page.click("input[name=model][value=hub]");
      await page.click("#run");
      expect(await textOf(page, "#error")).toMatch(/No model id is given yet/);
    }));
});

describe("a file that cannot be read", () => {
  test.each(["chosen by the button", "dropped"])("%s: says so, and offers no run", (way) =>
    withPage("", async (page) => {
      await page.click("input[name=text][value=own]");
      const path = join(folder, "gone.txt");
      writeFileSync(path, "soon gone");
      // Held back until the file is gone from the disk.
      await page.evaluate(() =>
        addEventListener("change", (event) => event.stopImmediatePropagation(), { capture: true, once: true }),
      );
      const input = await page.$("#text-input");
      await (input as unknown as { uploadFile(...paths: string[]): Promise<void> }).uploadFile(path);
      rmSync(path);
      await page.evaluate((isDrop) => {
        const field = document.getElementById("text-input") as HTMLInputElement;
        if (!isDrop) return field.dispatchEvent(new Event("change", { bubbles: true }));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(field.files![0]!);
        return document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
      }, way === "dropped");
      await page.waitForSelector("#error:not([hidden])");
      expect(await textOf(page, "#error")).toContain("That file could not be read");
      expect(await page.$("#error-action")).toBe(null);
      expect(await page.evaluate(() => window.ringwiseDemo.state)).toBe("idle");
      expect(demo.errors.splice(0)).toEqual([]);
    }),
  );
});

describe("explainError", () => {
  test("has plain words for every error class of the library", () => {
    const unexplained = Object.values(errors)
      .map((errorClass) => (errorClass as typeof Error).name)
      .filter((name) => !["RingwiseError", "DestroyedError"].includes(name))
      .filter((name) => explainError({ name, message: "allocate: too much" }).title === "Something went wrong");
    expect(unexplained).toEqual([]);
  });

  test("tells what to do when memory runs out, and keeps the figures", () => {
    const message = 'allocate("kv"): the GPU refused 900 bytes (held so far: 5)';
    const explanation = explainError({ name: "GpuMemoryError", message });
    expect(explanation.what).toBe("The GPU refused 900 bytes (held so far: 5).");
    expect(explanation.todo).toMatch(/block memory to “host”/);
    expect(explanation.action).toBe("retry");
  });

  test("begins a sentence with a capital, and leaves names as they are spelt", () => {
    const whatOf = (message: string) => explainError({ name: "ModelFormatError", message }).what;
    expect(whatOf("loadModel: expected a list")).toBe("Expected a list.");
    expect(whatOf("loadModel: config.json is empty")).toBe("config.json is empty.");
    expect(whatOf("nobody/no-such: expected a model")).toBe("nobody/no-such: expected a model.");
  });

  test("shows an unknown error as it came", () => {
    expect(explainError({ name: "TypeError", message: "x is not a function" }).what).toBe(
      "TypeError: x is not a function",
    );
  });
});
