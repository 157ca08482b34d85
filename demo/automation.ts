/**
 * Driving the page from outside (the command line without a display, tests, a console).
 *
 * Every control is a URL parameter by its name, and `autorun=1` starts the run:
 *
 *     index.html?autorun=1&worldSize=4&layout=zigzag&blockMemory=gpu&attention=ring&length=4096&depth=50&maxNewTokens=64
 *     index.html?autorun=1&modelId=HuggingFaceTB/SmolLM2-135M-Instruct&text=own&question=...   (or model=default|hub|folder)
 *     index.html?autorun=needle&needleLength=4096&needleDepths=5
 *
 * Then, in the page: `await ringwiseDemo.result` is the outcome of the run under way or, before one, of the first one to
 * come. It never rejects: a failed run has state "failed" and `error` in plain sentences. While it runs,
 * `ringwiseDemo.state` (also `<html data-state>`), `.answer`, `.progress` and the callback `.onPiece` tell how far it is.
 *
 * A ring of peers:
 *
 *     index.html?invite=1                          makes a room; `await ringwiseDemo.invite()` is the link to it
 *     index.html?peer=auto&name=N&memoryMiB=M#...  (an invitation's fragment) joins by itself
 *     index.html?autorun=1&peers=3                 makes a room, waits until 3 peers are ready, and runs
 *     &relay=ws://host:port/path &link=tab|webrtc &lanes=2 &wireDtype=f16 &replicas=1 &admitAll=0
 *
 * `ringwiseDemo.peersReady(3)` waits for peers, `.run()` runs the form as it stands, `.peers` and `.peerEvents` tell what
 * the page knows of the ring.
 */
import type { GenerateStatistics, PeerEvent, PeerGenerateStatistics, PeerStatus } from "../src/index.ts";
import type { Explanation } from "./explain-error.ts";
import type { EngineError, NeedleCell, PrefillFacts } from "./protocol.ts";

/** What the page is doing. "needle" while the needle test runs. */
export type DemoState = "idle" | "loading" | "prefill" | "answering" | "needle" | "done" | "stopped" | "failed";

/** How a run ended. */
export interface DemoResult {
  state: "done" | "stopped" | "failed";
  answer: string;
  /** The needle, where the generated text has been asked for it, and whether the answer has it. */
  expected?: string;
  found?: boolean;
  statistics?: GenerateStatistics | PeerGenerateStatistics;
  /** Of a needle test. */
  cells?: NeedleCell[];
  error?: Explanation & EngineError;
  modelName?: string;
  adapterName?: string;
}

/** Whose page it is: nobody's ring, a ring that it leads, a ring that another one leads. */
export type DemoRole = "alone" | "leader" | "peer";

/** What can be done with peers from outside. */
export interface PeersHook {
  readonly role: DemoRole;
  /** This one first; those who went are there for a while, as "gone". */
  readonly peers: readonly PeerStatus[];
  /** What happened, without the ring's steps; the last 2,000. `timeMs` on the page's clock. */
  readonly peerEvents: readonly { timeMs: number; event: PeerEvent }[];
  /** Makes a room, or gives the one there is. */
  invite(): Promise<string>;
  /** Joins the ring whose invitation the page was opened with. */
  join(): Promise<void>;
  /** Resolves when so many peers, this one included, are ready to compute. */
  peersReady(count: number): Promise<readonly PeerStatus[]>;
  admit(peerId: string): void;
  remove(peerId: string): void;
  leave(): Promise<void>;
}

/** `window.ringwiseDemo` */
export interface DemoHook extends PeersHook {
  /** Runs the form as it stands, over the ring of peers where there is one. */
  run(): Promise<DemoResult>;
  stop(): void;
  state: DemoState;
  answer: string;
  progress: PrefillFacts | undefined;
  /** Set it to hear the answer as it streams. */
  onPiece: ((text: string) => void) | undefined;
  /** Set it to hear of peers. */
  onPeerEvent: ((event: PeerEvent) => void) | undefined;
  result: Promise<DemoResult>;
}

declare global {
  interface Window {
    ringwiseDemo: DemoHook;
  }
}

/** Keeps `window.ringwiseDemo` true. */
export class Automation {
  private readonly hook: DemoHook;
  private settle: (result: DemoResult) => void = () => {};
  private isSettled = false;

  constructor() {
    const result = this.newPromise();
    const fields = {
      state: "idle",
      answer: "",
      progress: undefined,
      onPiece: undefined,
      onPeerEvent: undefined,
      result,
    };
    // What the page's parts do is added by `bind`, before anyone can look: the page's script is one task.
    this.hook = fields as unknown as DemoHook;
  }

  /** Adds what can be done, and shows the whole to the outside. */
  bind(peers: PeersHook, run: () => void, stop: () => void): void {
    Object.defineProperties(this.hook, {
      role: { get: () => peers.role },
      peers: { get: () => peers.peers },
      peerEvents: { get: () => peers.peerEvents },
    });
    this.hook.invite = () => peers.invite();
    this.hook.join = () => peers.join();
    this.hook.peersReady = (count) => peers.peersReady(count);
    this.hook.admit = (peerId) => peers.admit(peerId);
    this.hook.remove = (peerId) => peers.remove(peerId);
    this.hook.leave = () => peers.leave();
    this.hook.run = () => {
      run();
      return this.hook.result;
    };
    this.hook.stop = stop;
    window.ringwiseDemo = this.hook;
  }

  peerEvent(event: PeerEvent): void {
    this.hook.onPeerEvent?.(event);
  }

  setState(state: DemoState): void {
    this.hook.state = state;
    document.documentElement.dataset.state = state;
  }

  /** A run begins: `result` is now about this one. */
  begin(): void {
    // A promise that nothing has settled is kept: whoever waits on it since before the run must hear of it.
    if (this.isSettled) this.hook.result = this.newPromise();
    this.hook.answer = "";
    this.hook.progress = undefined;
  }

  piece(text: string): void {
    this.hook.answer += text;
    this.hook.onPiece?.(text);
  }

  progress(progress: PrefillFacts): void {
    this.hook.progress = progress;
  }

  /** The run has ended. */
  end(result: DemoResult): void {
    this.isSettled = true;
    this.setState(result.state);
    this.settle(result);
  }

  private newPromise(): Promise<DemoResult> {
    this.isSettled = false;
    return new Promise((resolve) => (this.settle = resolve));
  }
}
