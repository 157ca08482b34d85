import { expect, it } from "vitest";

it("has a WebGPU adapter", async () => {
  const adapter = await navigator.gpu.requestAdapter();
  console.log(
    JSON.stringify([...(adapter?.features ?? [])]),
    adapter?.limits.maxStorageBuffersPerShaderStage,
    adapter?.limits.maxComputeInvocationsPerWorkgroup,
    adapter?.info.description,
  );
  expect(adapter).not.toBeNull();
});
