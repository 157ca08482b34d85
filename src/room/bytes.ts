/** Bytes as text and back, and random bytes: what secrets, nonces and proofs are written with. */

/** URL-safe base64 without padding (RFC 4648, section 5). */
export function toBase64Url(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");
}

/** The bytes of {@link toBase64Url}'s text; undefined where it is none, or not of `byteLength` bytes. */
export function fromBase64Url(text: string, byteLength: number): Uint8Array<ArrayBuffer> | undefined {
  if (!/^[\w-]*$/.test(text) || text.length !== Math.ceil((byteLength * 4) / 3)) return undefined;
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}

/** Bytes nobody can guess. */
export const randomBytes = (byteLength: number): Uint8Array<ArrayBuffer> =>
  crypto.getRandomValues(new Uint8Array(byteLength));

/** UTF-8. */
export const utf8 = (text: string): Uint8Array<ArrayBuffer> =>
  new TextEncoder().encode(text) as Uint8Array<ArrayBuffer>;
