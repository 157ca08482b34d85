/** What the page and its engine (a dedicated worker with its own GPUDevice) say to each other. All of it is cloneable. */
import type {
  AttentionKind,
  BlockMemory,
  GenerateStatistics,
  LoadProgress,
  PeerGenerateStatistics,
  RingLayout,
  RingStep,
} from "../src/index.ts";
import type { PeerMessage, PeerRequest, PeerRunChoice } from "./peers/peer-protocol.ts";

/** Which model the person picked. `key` names one choice of a folder, so that the engine keeps a model it has. */
export type ModelChoice =
  | { kind: "default"; url: string }
  | { kind: "hub"; id: string; token?: string }
  | { kind: "folder"; key: string; name: string; handle: FileSystemDirectoryHandle }
  | { kind: "files"; key: string; name: string; files: File[] };

/** What is read: the project's generated text (length in tokens, depth of the needle in percent), or the person's own. */
export type TextChoice =
  | { kind: "generated"; length: number; depth: number; seed: number }
  | { kind: "own"; name: string; text: string };

/** The ring a job runs on. */
export interface RingChoice {
  /** 1 to 64 ranks. */
  worldSize: number;
  layout: RingLayout;
  blockMemory: BlockMemory;
  attention: AttentionKind;
}

/** How the answer is sampled. */
export interface SamplingChoice {
  maxNewTokens: number;
  temperature: number;
  topP: number;
  seed: number;
}

/** One text, one question, one answer. */
export interface RunJob {
  model: ModelChoice;
  text: TextChoice;
  /** Appended to the text. Empty with a generated text: the needle's own question. */
  question: string;
  ring: RingChoice;
  sampling: SamplingChoice;
  /** With a ring of peers: how it is run over them. Absent: alone, on ranks of this device. */
  peers?: PeerRunChoice;
}

/** The needle test: every depth at every length. */
export interface NeedleJob {
  model: ModelChoice;
  ring: RingChoice;
  /** Tokens. */
  lengths: number[];
  /** Percent. */
  depths: number[];
  seed: number;
}

/** Page to engine. Jobs are numbered by the page; a new job is sent only after the last one has ended. */
export type EngineRequest =
  | { type: "hello" }
  | { type: "run"; id: number; job: RunJob }
  | { type: "needle"; id: number; job: NeedleJob }
  | { type: "stop"; id: number }
  | PeerRequest;

/** An error as it crosses to the page: class name and message; `explainError` puts it into plain sentences. */
export interface EngineError {
  name: string;
  message: string;
}

/** The GPU that the engine got. */
export interface DeviceFacts {
  adapterName: string;
  /** The adapter computes on the CPU, so everything is slow. */
  isCpu: boolean;
  hasF16: boolean;
  maxBufferBytes: number;
}

/** The model that is loaded. */
export interface ModelFacts {
  name: string;
  layerCount: number;
  heads: number;
  kvHeads: number;
  hiddenSize: number;
  isChat: boolean;
}

/** One turn of the ring (all steps of all ranks in one layer of one prefill chunk). */
export interface RingTurn {
  layer: number;
  layerCount: number;
  steps: RingStep[];
}

/** Bytes on the GPU now, and at most so far: the whole device, and each rank's own part. */
export interface MemoryFacts {
  bytes: number;
  peakBytes: number;
  /** Index: rank. */
  ranks: { bytes: number; peakBytes: number }[];
}

/** Prefill as it goes. */
export interface PrefillFacts {
  doneTokens: number;
  totalTokens: number;
  tokensPerSecond: number;
  secondsLeft: number;
}

/** How one cell of the needle grid ended. */
export interface NeedleCell {
  length: number;
  depth: number;
  isFound: boolean;
  expected: string;
  answer: string;
  promptTokens: number;
  seconds: number;
}

/** Engine to page. */
export type EngineEvent =
  | { type: "device"; device: DeviceFacts }
  | { type: "deviceFailed"; error: EngineError }
  | { type: "load"; id: number; progress: LoadProgress }
  | { type: "model"; id: number; model: ModelFacts }
  | { type: "prompt"; id: number; question: string; expected?: string }
  | { type: "progress"; id: number; prefill?: PrefillFacts; turns: RingTurn[]; memory: MemoryFacts }
  | { type: "piece"; id: number; text: string; newTokens: number; tokensPerSecond: number }
  | { type: "done"; id: number; statistics: GenerateStatistics | PeerGenerateStatistics }
  | { type: "cellStart"; id: number; length: number; depth: number }
  | { type: "cell"; id: number; cell: NeedleCell }
  | { type: "needleDone"; id: number }
  | { type: "stopped"; id: number }
  | { type: "failed"; id: number; error: EngineError }
  | PeerMessage;
