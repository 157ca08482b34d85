/** Who can open this page's link: said before anyone sends it to a phone that cannot. */

/** Where a page comes from, as far as it matters here. */
export interface PageOrigin {
  protocol: string;
  hostname: string;
  /** `isSecureContext` */
  isSecure: boolean;
}

/** What the page says about its link, and whether that is a warning. */
export interface Reach {
  /** this-machine: nobody else can open the link. */
  kind: "this-machine" | "network" | "internet" | "insecure";
  text: string;
}

const LOOPBACK = /^(localhost|.+\.localhost|127(\.\d+){3}|\[::1\])$/i;
/** Addresses and names that lead nowhere outside of one network. */
const LOCAL_NETWORK =
  /^(10(\.\d+){3}|192\.168(\.\d+){2}|172\.(1[6-9]|2\d|3[01])(\.\d+){2}|169\.254(\.\d+){2}|\[f[cde][0-9a-f:]*\]|[^.]+|.+\.(local|lan|home|internal|home\.arpa))$/i;

/** How far the link of a page from this origin reaches. */
export function describeReach({ hostname, isSecure }: PageOrigin): Reach {
  if (LOOPBACK.test(hostname))
    return {
      kind: "this-machine",
      text: "This page has an address that only this computer knows, so the link works in its own tabs and browsers. To let other machines in, start it with: ringwise demo --lan",
    };
  if (!isSecure)
    return {
      kind: "insecure",
      text: "This page did not come over https, and other machines’ browsers give such a page no WebGPU. Start it with: ringwise demo --lan. Machines with Ringwise installed can come in as it is: ringwise peer --join LINK",
    };
  if (LOCAL_NETWORK.test(hostname))
    return { kind: "network", text: "Works for machines and phones on the same network as this one." };
  return { kind: "internet", text: "Works wherever this page can be opened." };
}
