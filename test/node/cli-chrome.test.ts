/** Finding a Chrome: what the environment names, what the machine shows, and how it is started. */
import { existsSync } from "node:fs";
import { afterEach, describe, expect, it, vi } from "vitest";
import { ChromeNotFoundError, chooseAdapter, chromeArguments, findInstalledChrome } from "../../src/cli/chrome.ts";

afterEach(() => vi.unstubAllEnvs());

describe("findInstalledChrome", () => {
  it("takes the environment's word before everything else", async () => {
    for (const name of ["RINGWISE_CHROME", "CHROME_PATH", "PUPPETEER_EXECUTABLE_PATH"]) vi.stubEnv(name, "");
    vi.stubEnv("CHROME_PATH", process.execPath);
    expect(await findInstalledChrome()).toBe(process.execPath);
    vi.stubEnv("RINGWISE_CHROME", "/nowhere/chrome");
    await expect(findInstalledChrome()).rejects.toThrow(ChromeNotFoundError);
    await expect(findInstalledChrome()).rejects.toThrow(/RINGWISE_CHROME names "\/nowhere\/chrome"/);
  });

  it("else finds one that is there, or none", async () => {
    for (const name of ["RINGWISE_CHROME", "CHROME_PATH", "PUPPETEER_EXECUTABLE_PATH"]) vi.stubEnv(name, "");
    const found = await findInstalledChrome();
    if (found !== undefined) expect(existsSync(found)).toBe(true);
  });
});

describe("how Chrome is started", () => {
  it("names SwiftShader only where it is asked for", () => {
    expect(chromeArguments("swiftshader")).toContain("--use-webgpu-adapter=swiftshader");
    expect(chromeArguments("default").join(" ")).not.toContain("swiftshader");
    expect(chromeArguments("default")).toContain("--enable-unsafe-webgpu");
  });

  it("refuses an adapter that it does not know", () => {
    expect(chooseAdapter("default")).toBe("default");
    expect(() => chooseAdapter("voodoo")).toThrow(/expected "swiftshader" or "default", got "voodoo"/);
  });
});
