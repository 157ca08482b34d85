/**
 * The proof of the secret, over a connection that stands already: each end shows, by HMAC-SHA-256 under a key that comes
 * from the invitation, that it knows the secret and that it sees the same connection (the DTLS fingerprints of both ends).
 * Someone in the middle has two connections with other fingerprints, so what it passes on proves nothing.
 */
import { RoomError } from "../errors.ts";
import { fromBase64Url, randomBytes, toBase64Url, utf8 } from "./bytes.ts";

const NONCE_BYTES = 16;
const PROOF_BYTES = 32;

/** One end's view of a connection; "binding" is what ties a proof to it. */
export interface ProofSide {
  selfId: string;
  peerId: string;
  /** Fingerprints of the own and the other end's DTLS certificate, or what stands for them on a port. */
  selfBinding: string;
  peerBinding: string;
}

/** Sends a message to, and awaits the next one from, the other end. `receive` rejects when the connection ends. */
export interface ProofChannel {
  send(message: object): void | Promise<void>;
  receive(): Promise<unknown>;
}

/** The order of the two ends, the same on both. */
function transcript(side: ProofSide, prover: string, nonces: Record<string, string>): Uint8Array<ArrayBuffer> {
  const bindings: Record<string, string> = { [side.selfId]: side.selfBinding, [side.peerId]: side.peerBinding };
  const [first, second] = [side.selfId, side.peerId].sort() as [string, string];
  return utf8(
    JSON.stringify([
      "ringwise proof 1",
      prover === first ? "first" : "second",
      first,
      second,
      bindings[first],
      bindings[second],
      nonces[first],
      nonces[second],
    ]),
  );
}

function field(message: unknown, type: string, name: string): string {
  const value = typeof message === "object" && message !== null ? (message as Record<string, unknown>) : {};
  if (value.type === "refused")
    throw new RoomError(
      `The other side said no: ${typeof value.reason === "string" ? value.reason.slice(0, 200) : ""}`,
    );
  const text = value[name];
  if (value.type !== type || typeof text !== "string")
    throw new RoomError(`proof: expected a message of type "${type}", got ${JSON.stringify(message)?.slice(0, 80)}`);
  return text;
}

/**
 * Proves the secret to the other end and checks its proof; both ends run it at the same time. Resolves when both have
 * accepted each other.
 * @throws {RoomError} with a sentence for people where the other end does not hold the secret or sees another connection.
 */
export async function proveSecret(proofKey: CryptoKey, side: ProofSide, channel: ProofChannel): Promise<void> {
  if (side.selfId === side.peerId) throw new RoomError("proof: the other end has this one's own id.");
  const selfNonce = toBase64Url(randomBytes(NONCE_BYTES));
  await channel.send({ type: "hello", nonce: selfNonce });
  const peerNonce = field(await channel.receive(), "hello", "nonce");
  if (!fromBase64Url(peerNonce, NONCE_BYTES)) throw new RoomError("proof: the other end's nonce is no nonce.");
  const nonces = { [side.selfId]: selfNonce, [side.peerId]: peerNonce };

  const mac = await crypto.subtle.sign("HMAC", proofKey, transcript(side, side.selfId, nonces));
  await channel.send({ type: "proof", mac: toBase64Url(new Uint8Array(mac)) });
  const peerMac = fromBase64Url(field(await channel.receive(), "proof", "mac"), PROOF_BYTES);
  // `verify` compares in constant time.
  const isRight =
    peerMac !== undefined &&
    (await crypto.subtle.verify("HMAC", proofKey, peerMac, transcript(side, side.peerId, nonces)));
  if (!isRight) {
    const reason =
      "proof of the secret failed: the invitation is not this room's, or someone sits in the middle of the connection.";
    await channel.send({ type: "refused", reason });
    throw new RoomError(`A peer was turned away: ${reason}`);
  }
  await channel.send({ type: "accepted", ok: "yes" });
  field(await channel.receive(), "accepted", "ok");
}

/**
 * The SHA-256 fingerprint of a session description's DTLS certificate, upper-case; of several (one per media section) the
 * only one.
 * @throws {RoomError} where there is none, or not one and the same.
 */
export function fingerprintOf(sdp: string | undefined): string {
  const found = new Set(
    [...(sdp ?? "").matchAll(/^a=fingerprint:sha-256 ([0-9a-f:]{95})\s*$/gim)].map((match) => match[1]!.toUpperCase()),
  );
  if (found.size !== 1)
    throw new RoomError(`fingerprintOf: expected one SHA-256 fingerprint in the description, got ${found.size}`);
  return [...found][0]!;
}
