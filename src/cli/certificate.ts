/**
 * A certificate made on the fly, for `demo --lan`: browsers give WebGPU and WebCrypto to https and localhost only, so other
 * machines need https. Nobody vouches for it, so browsers ask once. The room does not lean on it: what peers say to each other
 * is sealed and proved by the invitation's secret.
 */
import { UsageError } from "./errors.ts";
import { ownAddresses } from "./server.ts";

/** It lives as long as the server does, whose key is nowhere stored; a month is more than enough. */
const DAYS = 30;

/**
 * A self-signed certificate (ECDSA P-256) for localhost and this machine's own names and addresses.
 * @throws {UsageError} where the optional package selfsigned is missing.
 */
export async function selfSignedCertificate(): Promise<{ cert: string; key: string }> {
  const { generate } = await import("selfsigned").catch((error) => {
    throw new UsageError(
      `https without --cert and --key needs the optional package selfsigned (${String((error as Error).message).split("\n")[0]}); run "npm install selfsigned", or make a certificate with mkcert and pass its files`,
    );
  });
  const { names, addresses } = ownAddresses();
  const made = await generate([{ name: "commonName", value: "Ringwise on this network" }], {
    keyType: "ec",
    curve: "P-256",
    algorithm: "sha256",
    notBeforeDate: new Date(Date.now() - 24 * 3_600_000),
    notAfterDate: new Date(Date.now() + DAYS * 24 * 3_600_000),
    extensions: [
      { name: "basicConstraints", cA: false },
      { name: "keyUsage", digitalSignature: true, critical: true },
      { name: "extKeyUsage", serverAuth: true },
      {
        name: "subjectAltName",
        altNames: [
          ...["localhost", ...names].map((value) => ({ type: 2 as const, value })),
          ...["127.0.0.1", ...addresses].map((ip) => ({ type: 7 as const, ip })),
        ],
      },
    ],
  });
  return { cert: made.cert, key: made.private };
}
