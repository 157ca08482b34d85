export * from "../src/gpu/buffers.ts";
export * from "../src/kernels/attention.ts";
export * from "../src/ring/ring-attention.ts";
export type { RingLayout } from "../src/ring/types.ts";
