/** The static server of the command line: the right types, ranges, isolation, and nothing beyond its folders. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { UsageError } from "../../src/cli/errors.ts";
import { type StaticServer, serve } from "../../src/cli/server.ts";

/** A request whose path and Host go out as they are written (fetch would tidy both). */
function raw(
  port: number,
  path: string,
  headers: Record<string, string> = {},
): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const call = request({ host: "127.0.0.1", port, path, headers }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text: string) => (body += text));
      response.on("end", () => resolve({ status: response.statusCode!, body }));
    });
    call.once("error", reject).end();
  });
}

describe("serve", () => {
  let root = "";
  let server: StaticServer;
  beforeAll(async () => {
    root = mkdtempSync(join(tmpdir(), "ringwise-serve-"));
    for (const folder of ["page", "model"]) mkdirSync(join(root, folder));
    writeFileSync(join(root, "secret.txt"), "secret");
    writeFileSync(join(root, "page/index.html"), "<!doctype html>page");
    writeFileSync(join(root, "page/main.js"), "export {};");
    writeFileSync(join(root, "model/model.safetensors"), "0123456789");
    server = await serve([
      { path: "/", folder: join(root, "page") },
      { path: "/model/", folder: join(root, "model") },
    ]);
  });
  afterAll(async () => {
    await server.close();
    rmSync(root, { recursive: true, force: true });
  });
  const port = () => Number(new URL(server.url).port);

  it("serves the page with its types and the headers of cross-origin isolation", async () => {
    const page = await fetch(server.url);
    expect(await page.text()).toContain("page");
    expect(page.headers.get("content-type")).toMatch(/^text\/html/);
    expect(page.headers.get("cross-origin-opener-policy")).toBe("same-origin");
    expect(page.headers.get("cross-origin-embedder-policy")).toBe("require-corp");
    expect((await fetch(`${server.url}main.js`)).headers.get("content-type")).toMatch(/^text\/javascript/);
  });

  it("answers ranges, and heads", async () => {
    const url = `${server.url}model/model.safetensors`;
    const part = await fetch(url, { headers: { Range: "bytes=2-4" } });
    expect([part.status, await part.text()]).toEqual([206, "234"]);
    const head = await fetch(url, { method: "HEAD" });
    expect(head.headers.get("content-length")).toBe("10");
  });

  it("serves nothing else: no way up, no other host, no other method", async () => {
    for (const path of ["/../secret.txt", "/model/../secret.txt", "/%2e%2e/secret.txt", "/model/%2e%2e%2fsecret.txt"])
      expect((await raw(port(), path)).body, path).not.toContain("secret");
    expect((await fetch(`${server.url}model/absent.json`)).status).toBe(404);
    expect((await raw(port(), "/", { Host: "evil.example" })).status).toBe(403);
    expect((await fetch(server.url, { method: "POST" })).status).toBe(405);
  });

  it("says which port is taken", async () => {
    await expect(serve([{ path: "/", folder: root }], port())).rejects.toThrow(UsageError);
    await expect(serve([{ path: "/", folder: root }], port())).rejects.toThrow(/is in use; choose another with --port/);
  });
});
