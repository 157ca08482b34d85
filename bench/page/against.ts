/** The page of one contender, named by `?contender=`: the page's side of src/cli/contender-host.ts. */
import type { JobAnswer } from "../../src/cli/harness-answer.ts";
import { describeAdapter } from "../../src/index.ts";
import type { Contender, ContenderMethods, Prepared } from "../against/contender.ts";
import { countGpu } from "../against/gpu-count.ts";

declare global {
  var ringwiseContender: (method: string, ...args: unknown[]) => Promise<JobAnswer<unknown>>;
}

/** Each is loaded in its own page alone, after the counting has begun. */
const CONTENDERS: Record<string, () => Promise<{ contender: Contender }>> = {
  ringwise: () => import("../against/contenders/ringwise.ts"),
  "onnxruntime-web": () => import("../against/contenders/onnxruntime-web.ts"),
  "jax-js": () => import("../against/contenders/jax-js.ts"),
  tfjs: () => import("../against/contenders/tfjs.ts"),
};

const count = countGpu();
const name = new URL(location.href).searchParams.get("contender") ?? "";
let contender: Contender;
let device: GPUDevice;
let prepared: Prepared | undefined;

function expectPrepared(): Prepared {
  if (!prepared) throw new Error(`against page "${name}": expected "prepare" before it is asked to run`);
  return prepared;
}

const methods: ContenderMethods = {
  async open() {
    const load = CONTENDERS[name];
    if (!load) throw new Error(`against page: no contender named "${name}"`);
    ({ contender } = await load());
    device = await contender.open();
    const { name: adapter, isCpu } = describeAdapter(device);
    return { adapter, isCpu };
  },
  async prepare(kind, job) {
    const prepare = contender.kinds[kind];
    if (!prepare) throw new Error(`against page "${name}": cannot be asked for kind "${kind}"`);
    prepared = await prepare(device, job as never);
    const { implementation, kernels } = prepared;
    return { implementation, kernels };
  },
  async sample(count) {
    const { run } = expectPrepared();
    const startMs = performance.now();
    await run(count);
    return (performance.now() - startMs) / count;
  },
  answer: (question) => count.uncounted(() => expectPrepared().answer(question)),
  gpu: async () => count.told(),
  async release() {
    await prepared?.release();
    prepared = undefined;
  },
};

globalThis.ringwiseContender = async (method, ...args) => {
  try {
    const call = methods[method as keyof ContenderMethods] as (...args: unknown[]) => Promise<unknown>;
    const result = await call(...args);
    const { lost } = count.told();
    // Work on a lost device "succeeds" at once: without this it would be the fastest of all.
    if (lost && method !== "gpu") return { ok: false, name: "DeviceLostError", message: lost };
    return { ok: true, result };
  } catch (error) {
    const { name, message } = error instanceof Error ? error : new Error(String(error));
    const { lost } = count.told();
    return lost ? { ok: false, name: "DeviceLostError", message: lost } : { ok: false, name, message };
  }
};
