import { defineConfig } from "vitest/config";
import { onnxCasesPath } from "./test/onnx-cases-path.ts";
import { puppeteer } from "./test/puppeteer-provider.ts";

/** ../shared (checkpoints, operator cases, texts) is read by browser tests over Vite's /@fs/, hence `allow`. */
const shared = new URL("../shared", import.meta.url).pathname;

export default defineConfig({
  test: {
    projects: [
      {
        define: { __SHARED__: JSON.stringify(shared) },
        test: {
          name: "node",
          include: ["test/node/**/*.test.ts"],
          environment: "node",
          testTimeout: 60_000,
          sequence: { groupOrder: 0 },
        },
      },
      {
        define: {
          __SHARED__: JSON.stringify(shared),
          __ONNX_CASES__: JSON.stringify(onnxCasesPath(process.env)),
          __GOLDEN__: JSON.stringify(process.env.RINGWISE_GOLDEN ?? null),
        },
        server: { fs: { strict: false } },
        test: {
          name: "browser",
          sequence: { groupOrder: 1 },
          include: ["test/browser/**/*.test.ts"],
          testTimeout: 180_000,
          hookTimeout: 180_000,
          browser: {
            enabled: true,
            headless: true,
            provider: puppeteer(),
            instances: [{ browser: "chrome" }],
            screenshotFailures: false,
          },
        },
      },
      {
        define: { __SHARED__: JSON.stringify(shared) },
        test: {
          name: "e2e",
          include: ["test/e2e/**/*.test.ts"],
          environment: "node",
          globalSetup: ["test/e2e/build.ts"],
          // After the browser tests: both would otherwise share two cores, and each Chrome wants both.
          sequence: { groupOrder: 2 },
          fileParallelism: false,
          testTimeout: 600_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
});
