/**
 * The room's keys, each for one purpose, all from the invitation's secret by HKDF-SHA-256 (RFC 5869). What signalling sees
 * (the room's id) tells nothing of the others.
 */
import { RoomError } from "../errors.ts";
import { fromBase64Url, randomBytes, toBase64Url, utf8 } from "./bytes.ts";

/** See {@link deriveRoomKeys}. */
export interface RoomKeys {
  /** What signalling knows the room by; base64url of 128 bits. */
  roomId: string;
  /** Session descriptions are encrypted with it (trystero's `password`); base64url of 256 bits. */
  password: string;
  /** AES-GCM: seals every signalling message once more, so that a relay can neither read nor make any. */
  sealKey: CryptoKey;
  /** HMAC-SHA-256: see proof.ts. */
  proofKey: CryptoKey;
}

/** @throws {RoomError} where the page is not in a secure context: WebCrypto (and WebGPU) exist only there. */
export function checkSecureContext(): void {
  if (globalThis.crypto?.subtle === undefined)
    throw new RoomError(
      "Rooms need a secure context: open this page by https, or on this machine as http://localhost (over http elsewhere, browsers switch off WebCrypto and WebGPU).",
    );
}

/**
 * Derives all keys of a room.
 * @param secret The invitation's 16 bytes.
 * @throws {RoomError} outside of a secure context.
 */
export async function deriveRoomKeys(secret: Uint8Array<ArrayBuffer>): Promise<RoomKeys> {
  checkSecureContext();
  const { subtle } = crypto;
  const base = await subtle.importKey("raw", secret, "HKDF", false, ["deriveBits"]);
  const derive = async (purpose: string, bits: number) =>
    new Uint8Array(
      await subtle.deriveBits(
        { name: "HKDF", hash: "SHA-256", salt: utf8("ringwise room 1"), info: utf8(purpose) },
        base,
        bits,
      ),
    );
  return {
    roomId: toBase64Url(await derive("room", 128)),
    password: toBase64Url(await derive("signalling", 256)),
    sealKey: await subtle.importKey("raw", await derive("seal", 256), "AES-GCM", false, ["encrypt", "decrypt"]),
    proofKey: await subtle.importKey("raw", await derive("proof", 256), { name: "HMAC", hash: "SHA-256" }, false, [
      "sign",
      "verify",
    ]),
  };
}

const IV_BYTES = 12;
/** Of a sealed message; the relay takes 64 KiB in all. */
const MAX_SEALED_LENGTH = 48 * 1024;

/** Encrypts a signalling message for those who hold the room's secret. The topic is bound to it. */
export async function seal(key: CryptoKey, topic: string, text: string): Promise<string> {
  const iv = randomBytes(IV_BYTES);
  const sealed = await crypto.subtle.encrypt({ name: "AES-GCM", iv, additionalData: utf8(topic) }, key, utf8(text));
  return `${toBase64Url(iv)}.${toBase64Url(new Uint8Array(sealed))}`;
}

/** The text of a sealed message; undefined where it was not made with this key for this topic. */
export async function unseal(key: CryptoKey, topic: string, sealed: unknown): Promise<string | undefined> {
  if (typeof sealed !== "string" || sealed.length > MAX_SEALED_LENGTH) return undefined;
  const [ivText = "", body = ""] = sealed.split(".");
  const iv = fromBase64Url(ivText, IV_BYTES);
  const bytes = fromBase64Url(body, Math.floor((body.length * 3) / 4));
  if (!iv || !bytes) return undefined;
  try {
    const plain = await crypto.subtle.decrypt({ name: "AES-GCM", iv, additionalData: utf8(topic) }, key, bytes);
    return new TextDecoder("utf-8", { fatal: true }).decode(plain);
  } catch {
    return undefined;
  }
}
