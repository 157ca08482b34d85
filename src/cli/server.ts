/**
 * The server behind the demo, `generate`, `bench` and `peer`: named folders, the relay where peers meet, and nothing else.
 * On this machine only, unless a host is named. Its headers give a page fine clocks (cross-origin isolation) and hold it to
 * its own code (Content-Security-Policy).
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createSecureServer } from "node:https";
import { type AddressInfo, isIPv6 } from "node:net";
import { hostname, networkInterfaces } from "node:os";
import sirv from "sirv";
import { UsageError } from "./errors.ts";
import { attachRelay, type Relay, type RelayLimits } from "./relay.ts";

/** A folder and the path it is served at ("/", "/model/"). */
export interface Mount {
  path: string;
  folder: string;
}

/** A running server. */
export interface StaticServer {
  /** e.g. "http://localhost:8080/" */
  url: string;
  /** The same from other machines, where they may come; empty otherwise. */
  lanUrls: string[];
  /** e.g. "ws://localhost:8080/relay" */
  relayUrl: string;
  relay: Relay;
  close(): Promise<void>;
}

/** See {@link serve}. */
export interface ServeOptions {
  /** Address to listen on. Default "127.0.0.1"; "0.0.0.0" or "::" lets the local network in. */
  host?: string;
  /** PEM texts: HTTPS instead of HTTP. */
  tls?: { cert: string | Buffer; key: string | Buffer };
  relayLimits?: Partial<RelayLimits>;
  /** What the pages may do, where that is not {@link CONTENT_SECURITY_POLICY}: pages that run others' code. */
  contentSecurityPolicy?: string;
}

/**
 * What the pages may do. 'wasm-unsafe-eval' is not among it: no page of ours runs WebAssembly. Models come from the hub by
 * https, peers are met over ws (this server's relay is 'self'; others may be named) and wss.
 */
export const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "worker-src 'self'",
  "style-src 'self'",
  "img-src 'self' data: blob:",
  "font-src 'self'",
  "connect-src 'self' https: http://localhost:* http://127.0.0.1:* ws: wss: blob: data:",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "object-src 'none'",
].join("; ");

const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Content-Security-Policy": CONTENT_SECURITY_POLICY,
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
} as const;

const LOOPBACK = "127.0.0.1";

/** The machine's own names and addresses. */
export function ownAddresses(): { names: string[]; addresses: string[] } {
  const name = hostname().toLowerCase();
  const interfaces = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  // A link-local address carries its interface behind a %.
  const addresses = interfaces.map(({ address }) => address.split("%")[0]!);
  return { names: name.includes(".") ? [name] : [name, `${name}.local`], addresses: [...new Set(addresses)] };
}

/** The same as a Host header writes them. */
function ownHosts(): Set<string> {
  const { names, addresses } = ownAddresses();
  return new Set([...names, ...addresses.map((address) => (isIPv6(address) ? `[${address}]` : address))]);
}

/**
 * A page elsewhere that has its name point at this machine must not read local folders through us: only names that are ours
 * count.
 */
function hostCheck(isLan: boolean): (host: string | undefined) => boolean {
  return (host) => {
    const name = (host ?? "").toLowerCase().replace(/:\d+$/, "");
    return ["localhost", LOOPBACK, "[::1]"].includes(name) || (isLan && ownHosts().has(name));
  };
}

function listen(server: Server, port: number, host: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EADDRINUSE") reject(new UsageError(`port ${port} is in use; choose another with --port`));
      else if (error.code === "EACCES") reject(new UsageError(`port ${port} needs more rights; choose one above 1023`));
      else if (error.code === "EADDRNOTAVAIL") reject(new UsageError(`this machine has no address ${host}`));
      else reject(error);
    });
    server.listen(port, host, resolve);
  });
}

/** Addresses that other machines of the local network may reach this one by. */
function lanAddresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .filter(({ family, internal }) => family === "IPv4" && !internal)
    .map(({ address }) => address);
}

/**
 * Serves folders, and the relay at /relay; port 0 takes any free one. Files come with their MIME type, and in ranges where
 * asked.
 * @throws {UsageError} where the port is taken.
 */
export async function serve(mounts: readonly Mount[], port = 0, options: ServeOptions = {}): Promise<StaticServer> {
  const { host = LOOPBACK, tls } = options;
  const isLan = host !== LOOPBACK && host !== "localhost" && host !== "::1";
  const isAllowedHost = hostCheck(isLan);
  const headers = options.contentSecurityPolicy
    ? { ...HEADERS, "Content-Security-Policy": options.contentSecurityPolicy }
    : HEADERS;
  // The longest path first: "/model/" before "/".
  const handlers = [...mounts]
    .sort((a, b) => b.path.length - a.path.length)
    .map(({ path, folder }) => ({ path, handle: sirv(folder, { dev: true, etag: true }) }));
  const handle = (request: IncomingMessage, response: ServerResponse) => {
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    const end = (status: number, text: string) => {
      response.statusCode = status;
      response.setHeader("Content-Type", "text/plain; charset=utf-8");
      response.end(text);
    };
    if (!isAllowedHost(request.headers.host))
      return end(
        403,
        isLan ? "This server answers to its own addresses only." : "This server answers to localhost only.",
      );
    if (request.method !== "GET" && request.method !== "HEAD") return end(405, "GET or HEAD only.");
    const url = request.url ?? "/";
    const mount = handlers.find(({ path }) => url.startsWith(path));
    if (!mount) return end(404, "Not found.");
    request.url = `/${url.slice(mount.path.length)}`;
    mount.handle(request, response, () => end(404, "Not found."));
  };
  const server = tls ? (createSecureServer(tls, handle) as unknown as Server) : createServer(handle);
  await listen(server, port, host);
  const relay = attachRelay(server, isAllowedHost, options.relayLimits);
  const { port: taken } = server.address() as AddressInfo;
  const scheme = tls ? "https" : "http";
  return {
    url: `${scheme}://localhost:${taken}/`,
    lanUrls: isLan ? lanAddresses().map((address) => `${scheme}://${address}:${taken}/`) : [],
    relayUrl: `${tls ? "wss" : "ws"}://localhost:${taken}/relay`,
    relay,
    close: () =>
      new Promise((resolve, reject) => {
        relay.close();
        server.close((error) => (error ? reject(error) : resolve()));
        server.closeAllConnections();
      }),
  };
}
