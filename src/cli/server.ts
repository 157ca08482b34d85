/**
 * The static server behind the demo, `generate` and `bench`: named folders and nothing else, on this machine only, with
 * the headers that give a page fine clocks (cross-origin isolation).
 */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import sirv from "sirv";
import { UsageError } from "./errors.ts";

/** A folder and the path it is served at ("/", "/model/"). */
export interface Mount {
  path: string;
  folder: string;
}

/** A running server. */
export interface StaticServer {
  /** e.g. "http://localhost:8080/" */
  url: string;
  close(): Promise<void>;
}

const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  "X-Content-Type-Options": "nosniff",
} as const;

/** A page elsewhere that has its name point at 127.0.0.1 must not read local folders through us. */
const isLocalHost = (host: string | undefined) => /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/.test(host ?? "");

function listen(server: Server, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EADDRINUSE") reject(new UsageError(`port ${port} is in use; choose another with --port`));
      else if (error.code === "EACCES") reject(new UsageError(`port ${port} needs more rights; choose one above 1023`));
      else reject(error);
    });
    server.listen(port, "127.0.0.1", resolve);
  });
}

/**
 * Serves folders on 127.0.0.1; port 0 takes any free one. Files come with their MIME type, and in ranges where asked.
 * @throws {UsageError} where the port is taken.
 */
export async function serve(mounts: readonly Mount[], port = 0): Promise<StaticServer> {
  // The longest path first: "/model/" before "/".
  const handlers = [...mounts]
    .sort((a, b) => b.path.length - a.path.length)
    .map(({ path, folder }) => ({ path, handle: sirv(folder, { dev: true, etag: true }) }));
  const server = createServer((request, response) => {
    for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
    const end = (status: number, text: string) => {
      response.statusCode = status;
      response.setHeader("Content-Type", "text/plain; charset=utf-8");
      response.end(text);
    };
    if (!isLocalHost(request.headers.host)) return end(403, "This server answers to localhost only.");
    if (request.method !== "GET" && request.method !== "HEAD") return end(405, "GET or HEAD only.");
    const url = request.url ?? "/";
    const mount = handlers.find(({ path }) => url.startsWith(path));
    if (!mount) return end(404, "Not found.");
    request.url = `/${url.slice(mount.path.length)}`;
    mount.handle(request, response, () => end(404, "Not found."));
  });
  await listen(server, port);
  return {
    url: `http://localhost:${(server.address() as AddressInfo).port}/`,
    close: () =>
      new Promise((resolve, reject) => {
        server.close((error) => (error ? reject(error) : resolve()));
        server.closeAllConnections();
      }),
  };
}
