/** The engine worker of the peer page: one GPUDevice, one peer; wires come from the page. */
import type { JobAnswer } from "../../src/cli/harness-answer.ts";
import { openEngine, type PeerEngine } from "../../src/cli/peer-engine.ts";
import { requestRingwiseDevice, wiresFrom } from "../../src/index.ts";
import { Faults } from "./peer-faults.ts";
import type { WorkerEvent, WorkerRequest } from "./peer-protocol.ts";

const post = (event: WorkerEvent) => self.postMessage(event);

let engine: PeerEngine | undefined;
/** What came before the peer was there. */
const waiting: (() => void)[] = [];
const whenOpen = (work: () => void) => (engine ? work() : waiting.push(work));

function open(request: Extract<WorkerRequest, { type: "open" }>): void {
  const { id, isLeader, setup, baseUrl } = request;
  const { source } = setup;
  const faults = setup.isTest ? new Faults() : undefined;
  engine = openEngine({
    id,
    isLeader,
    name: setup.name,
    // "/model/" is a folder that the host serves; everything else loadModel takes as it is.
    source: source?.startsWith("/") ? new URL(source, baseUrl) : source,
    token: setup.token,
    memoryBytes: setup.memoryBytes,
    requestDevice: () => requestRingwiseDevice(),
    onEvent: (event) => post({ type: "peer", id, event }),
    onJobEvent: (event) => post({ type: "job", id, event }),
    onReconnect: (peerId) => post({ type: "reconnect", peerId }),
    onBan: (peerId) => post({ type: "ban", peerId }),
    wrapWire: faults && ((wire) => faults.wrap(wire)),
    doFault: faults && ((fault, device) => faults.do(fault, device)),
    faultCount: faults && (() => faults.faultCount),
  });
  for (const work of waiting.splice(0)) work();
}

async function answer(number: number, work: () => Promise<unknown>): Promise<void> {
  let answer: JobAnswer<unknown>;
  try {
    answer = { ok: true, result: await work() };
  } catch (error) {
    const { name, message } = error instanceof Error ? error : new Error(String(error));
    answer = { ok: false, name, message };
  }
  post({ type: "answer", number, answer });
}

self.onmessage = ({ data }: MessageEvent<WorkerRequest>) => {
  switch (data.type) {
    case "open":
      return void answer(data.number, async () => open(data));
    case "wires": {
      // At once: a channel that nobody listens to loses what comes in.
      const wires = wiresFrom(data.source);
      return void whenOpen(() => engine!.connect(data.peerId, wires));
    }
    case "left":
      return void whenOpen(() => engine!.peer.disconnect(data.peerId, data.reason));
    case "call":
      return void whenOpen(() => void answer(data.number, () => engine!.call(data.request)));
  }
};
