/** One end of a link in a dedicated worker, commanded over a port: what the page's engine worker is. */
import { LocalEnd, serveEnd } from "../link-end.ts";

self.onmessage = ({ data }: MessageEvent<{ port: MessagePort; selfId: string; peerId: string }>) =>
  serveEnd(data.port, new LocalEnd({ selfId: data.selfId, peerId: data.peerId }));
