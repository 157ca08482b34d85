/**
 * The invitation: a link whose fragment holds the room's 128-bit secret. Browsers never send a fragment to a server, so
 * neither the page's server nor the relay sees it.
 *
 *     http://host:port/#join=SECRET.CHECK[&relay=wss%3A%2F%2F...]
 *
 * CHECK is a checksum, so that a link that was cut or mistyped is told apart from an empty room.
 */
import { RoomError } from "../errors.ts";
import { fromBase64Url, randomBytes, toBase64Url } from "./bytes.ts";

const SECRET_BYTES = 16;
const CHECK_CHARACTERS = 4;
/** No address that people send each other is longer; a longer one is not looked at. */
const MAX_URL_LENGTH = 8192;

/** What an invitation says. */
export interface Invitation {
  /** 16 random bytes: all keys of the room come from it. */
  secret: Uint8Array<ArrayBuffer>;
  /** The page to open, without fragment. */
  pageUrl: string;
  /** WebSocket relay where the room meets; absent: that of the page's own server. */
  relayUrl?: string;
}

/** FNV-1a over the secret's text: guards against accidents, which is all that a checksum in the open can do. */
function checksum(text: string): string {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return toBase64Url(new Uint8Array([hash >>> 24, hash >>> 16, hash >>> 8])).slice(0, CHECK_CHARACTERS);
}

/** The fragment's parameters, where it has `join`. */
function fragmentOf(url: string): { base: string; parameters: URLSearchParams } | undefined {
  const hash = url.indexOf("#");
  if (hash < 0 || url.length > MAX_URL_LENGTH) return undefined;
  const parameters = new URLSearchParams(url.slice(hash + 1));
  return parameters.has("join") ? { base: url.slice(0, hash), parameters } : undefined;
}

/** Whether the address (e.g. `location.href`) holds an invitation, be it a broken one. */
export const hasInvitation = (url: string): boolean => fragmentOf(url) !== undefined;

/**
 * A new room's invitation.
 * @param pageUrl Address of the page that guests open; its fragment, if any, is replaced.
 * @param relayUrl Where the room meets, if not on the page's own server.
 * @throws {RoomError} where an address is none.
 */
export function createInvitation(pageUrl: string, relayUrl?: string): string {
  return formatInvitation({ secret: randomBytes(SECRET_BYTES), pageUrl, relayUrl });
}

/** @throws {RoomError} where an address is none. */
export function formatInvitation({ secret, pageUrl, relayUrl }: Invitation): string {
  const url = checkedUrl(pageUrl, ["http:", "https:"], "the page's address");
  const text = toBase64Url(secret);
  url.hash = "";
  const relay = relayUrl === undefined ? "" : `&relay=${encodeURIComponent(checkedRelay(relayUrl))}`;
  return `${url.href}#join=${text}.${checksum(text)}${relay}`;
}

/**
 * What an invitation says.
 * @throws {RoomError} with a sentence for people where the link is broken.
 */
export function parseInvitation(url: string): Invitation {
  const found = fragmentOf(url.trim());
  if (!found)
    throw new RoomError(
      "This is not an invitation: the link must end in #join=… and be complete. Copy it whole from the person who sent it.",
    );
  const [text = "", check] = (found.parameters.get("join") ?? "").split(".");
  const secret = fromBase64Url(text, SECRET_BYTES);
  if (!secret || check !== checksum(text))
    throw new RoomError(
      "The invitation is damaged: part of the link after #join= is missing or was changed. Copy it again, whole.",
    );
  const relay = found.parameters.get("relay") ?? undefined;
  return {
    secret,
    pageUrl: checkedUrl(found.base, ["http:", "https:"], "the invitation's page").href,
    ...(relay === undefined ? {} : { relayUrl: checkedRelay(relay) }),
  };
}

const checkedRelay = (url: string) => checkedUrl(url, ["ws:", "wss:"], "the relay's address").href;

function checkedUrl(text: string, protocols: readonly string[], what: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url || !protocols.includes(url.protocol) || url.username || url.password)
    throw new RoomError(
      `${what} is no ${protocols.map((name) => `${name}//`).join(" or ")} address: ${JSON.stringify(text.slice(0, 200))}.`,
    );
  return url;
}
