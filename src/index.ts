/** Ringwise: Ring Attention with Blockwise Transformers for WebGPU. This is the whole public API. */

export * from "./errors.ts";
export {
  type AllocateOptions,
  allocate,
  allocateAll,
  type BufferSource,
  type BufferView,
  read,
  release,
  upload,
  write,
} from "./gpu/buffers.ts";
export { type AdapterDescription, type DeviceOptions, describeAdapter, requestRingwiseDevice } from "./gpu/device.ts";
export type { CommandTarget } from "./gpu/dispatch.ts";
export { ledgerOf, type MemoryLedger, type MemoryUse, SHARED } from "./gpu/ledger.ts";
export { type Attention, type AttentionLimits, createAttention } from "./kernels/attention.ts";
export type { FinalizeTensors, MergeTensors } from "./kernels/attention-merge.ts";
export {
  type AttentionStepper,
  type AttentionStepperLimits,
  createAttentionStepper,
} from "./kernels/attention-stepper.ts";
export type {
  AttentionDesign,
  AttentionKind,
  AttentionMask,
  AttentionOptions,
  AttentionPast,
  AttentionStepTensors,
  AttentionTensors,
  TokenPositions,
} from "./kernels/attention-types.ts";
export type { AttentionWork } from "./kernels/candidates.ts";
export { createFmaProbe, type FmaProbe, measureFmaPeak } from "./kernels/fma-peak.ts";
export {
  type Activation,
  createMatmul,
  type Matmul,
  type MatmulDesign,
  type MatmulOptions,
  type MatmulTensors,
} from "./kernels/matmul.ts";
export { createMlp, type Mlp, type MlpOptions, type MlpTensors } from "./kernels/mlp.ts";
export { createReadProbe, type ReadProbe } from "./kernels/read-peak.ts";
export { createRmsNorm, type RmsNorm, type RmsNormOptions, type RmsNormTensors } from "./kernels/rmsnorm.ts";
export {
  createRope,
  createRopeTables,
  type Rope,
  type RopeOptions,
  type RopeTables,
  type RopeTablesOptions,
  type RopeTensors,
} from "./kernels/rope.ts";
export { type RopeScaling, type RopeTableOptions, ropeTable } from "./kernels/rope-tables.ts";
export type { AttentionChoice, ChoiceBasis, KernelChoice } from "./kernels/tiles.ts";
export { attentionCandidates, type CandidateInfo, type TunedShape, tuneAttention } from "./kernels/tune.ts";
export type { TunedStore, TuneOptions, TuneProgress } from "./kernels/tune-types.ts";
export type { ShippedAdapter, TunedCandidate, TunedRecord } from "./kernels/tuned-record.ts";
export { createFileStore, createIndexedDbStore } from "./kernels/tuned-store.ts";
export { type CreateLinkOptions, createLink, type LinkClock, type OwnLink } from "./link/link.ts";
export { type ThrottleOptions, throttle } from "./link/throttle.ts";
export type * from "./link/types.ts";
export { createMemoryWires, type MemoryWire } from "./link/wire-memory.ts";
export { type WireOrigin, wiresFrom } from "./link/wires.ts";
export { loadModel, loadPreset, type PresetOptions } from "./model/load-model.ts";
export { type NeedleText, type NeedleTextOptions, needleText } from "./model/needle-text.ts";
export { PRESET_NAMES, type PresetName } from "./model/presets.ts";
export { sourceFromDrop } from "./model/sources.ts";
export type * from "./model/types.ts";
export { createPeer } from "./peers/create-peer.ts";
export type { PeerOptions } from "./peers/peer-options.ts";
export { planShards, type ShardPlanOptions } from "./peers/plan.ts";
export type * from "./peers/types.ts";
export type { KvAppendTensors, KvBlock, KvBlockMark } from "./ring/kv-block.ts";
export type { BlockPage, GpuPage, HostPage, HostRows, KvPage, RingBlock } from "./ring/kv-page.ts";
export type { HostTokens } from "./ring/kv-rows.ts";
export {
  chooseRotation,
  type ExposureForecast,
  type ExposureOptions,
  forecastExposure,
  hidingTokens,
  type OverlapMask,
  type OverlapReport,
  type OverlapShape,
  overlapSentence,
  type RankSpeed,
  type RotationOptions,
} from "./ring/overlap.ts";
export { createRankAttention } from "./ring/rank-attention.ts";
export type * from "./ring/rank-types.ts";
export { createRingAttention } from "./ring/ring-attention.ts";
export type * from "./ring/ring-types.ts";
export { type ShardOptions, shardTokens } from "./ring/shard.ts";
export type { ArrivedPage, StepFields, Transport, TransportPass } from "./ring/transport.ts";
export type * from "./ring/types.ts";
export { createInvitation, hasInvitation, type Invitation, parseInvitation } from "./room/invitation.ts";
export { joinRoom } from "./room/join-room.ts";
export type * from "./room/types.ts";
export { createWorkerMesh, type MeshPorts } from "./room/worker-mesh.ts";
export type { AttentionLayout, Dtype, WeightDtype } from "./shape.ts";
