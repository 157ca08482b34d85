/** A server for the local network: which names it answers to, https with a certificate made on the fly, what pages may do. */
import { X509Certificate } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import { selfSignedCertificate } from "../../src/cli/certificate.ts";
import { ownAddresses, type StaticServer, serve } from "../../src/cli/server.ts";

/** Status of a request to 127.0.0.1 that says it is meant for `host`. */
function statusOf(server: StaticServer, host: string): Promise<number> {
  const { port, protocol } = new URL(server.url);
  const request = protocol === "https:" ? httpsRequest : httpRequest;
  return new Promise((resolve, reject) => {
    const options = { host: "127.0.0.1", port, path: "/", headers: { Host: host }, rejectUnauthorized: false };
    request(options, (response) => {
      response.resume();
      resolve(response.statusCode!);
    })
      .once("error", reject)
      .end();
  });
}

describe("a server for the local network", () => {
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "ringwise-lan-"));
    writeFileSync(join(folder, "index.html"), "<!doctype html>page");
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const mounts = () => [{ path: "/", folder }];

  it("answers to the machine's own names and addresses only; by default to localhost only", async () => {
    const { names, addresses } = ownAddresses();
    const own = [...names, ...addresses.filter((address) => !address.includes(":") && address !== "127.0.0.1")];
    const [open, closed] = [await serve(mounts(), 0, { host: "0.0.0.0" }), await serve(mounts())];
    try {
      for (const host of ["localhost", "127.0.0.1:80", "[::1]:8080", ...own])
        expect(await statusOf(open, host), host).toBe(200);
      for (const host of ["evil.example", "127.0.0.1.evil.example", "10.255.255.254", "localhost.evil"])
        expect(await statusOf(open, host), host).toBe(403);
      expect(await statusOf(closed, "localhost")).toBe(200);
      for (const host of own) expect(await statusOf(closed, host), host).toBe(403);
      const lan = Object.values(networkInterfaces())
        .flat()
        .filter((one) => one?.family === "IPv4" && !one.internal);
      expect(open.lanUrls).toHaveLength(lan.length);
      for (const url of open.lanUrls) expect((await fetch(url)).status).toBe(200);
      expect(closed.lanUrls).toEqual([]);
    } finally {
      await Promise.all([open.close(), closed.close()]);
    }
  });

  it("speaks https with a certificate made on the fly, for page and relay", async () => {
    const tls = await selfSignedCertificate();
    const certificate = new X509Certificate(tls.cert);
    expect(certificate.checkHost("localhost")).toBe("localhost");
    expect(certificate.checkIP("127.0.0.1")).toBe("127.0.0.1");
    for (const address of ownAddresses().addresses) expect(certificate.checkIP(address), address).toBeDefined();
    expect(certificate.ca).toBe(false);
    const server = await serve(mounts(), 0, { host: "0.0.0.0", tls });
    try {
      expect(server.url).toMatch(/^https:/);
      expect(await statusOf(server, "localhost")).toBe(200);
      const socket = new WebSocket(server.relayUrl, { rejectUnauthorized: false });
      await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
      expect(server.relay.socketCount).toBe(1);
      socket.close();
    } finally {
      await server.close();
    }
  });

  it("holds pages to their own code", async () => {
    const server = await serve(mounts());
    try {
      const { headers } = await fetch(server.url);
      const policy = new Map(
        headers
          .get("content-security-policy")!
          .split("; ")
          .map((line) => [line.split(" ")[0]!, line.split(" ").slice(1)]),
      );
      expect(policy.get("default-src")).toEqual(["'none'"]);
      for (const name of ["script-src", "worker-src", "style-src"]) expect(policy.get(name), name).toEqual(["'self'"]);
      for (const name of ["base-uri", "form-action", "frame-ancestors", "object-src"])
        expect(policy.get(name), name).toEqual(["'none'"]);
      expect(headers.get("content-security-policy")).not.toContain("unsafe");
      expect(headers.get("referrer-policy")).toBe("no-referrer");
    } finally {
      await server.close();
    }
  });
});
