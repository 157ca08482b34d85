/** Constants that Vitest's config defines for tests. */
declare const __SHARED__: string;
declare const __ONNX_CASES__: string | null;
declare const __GOLDEN__: string | null;
