/** Whole models on Ringwise, through its public API. */
import { type GeneratedPiece, loadModel, loadPreset, type Model } from "../../../src/index.ts";
import type { Prepared } from "../contender.ts";
import { type BenchModel, benchPrompt, type ModelJob, type ModelQuestion } from "../model-cases.ts";

let loaded: { key: string; model: Model } | undefined;
/** A generation that is held between two samples. */
let held: AsyncIterator<GeneratedPiece> | undefined;

async function letGo(): Promise<void> {
  await held?.return?.();
  held = undefined;
}

/** The model, loaded once per page. */
async function modelOf(device: GPUDevice, model: BenchModel): Promise<Model> {
  await letGo();
  const key = JSON.stringify(model);
  if (loaded?.key === key) return loaded.model;
  loaded?.model.destroy();
  loaded = undefined;
  const one =
    "preset" in model
      ? await loadPreset(model.preset, { device })
      : await loadModel(new URL("/model/", location.href), { device });
  loaded = { key, model: one };
  return one;
}

async function prepare(
  device: GPUDevice,
  job: ModelJob,
  make: (model: Model, prompt: number[]) => Promise<Prepared["run"]>,
): Promise<Prepared> {
  const model = await modelOf(device, job.model);
  return {
    implementation: "ring of 1",
    run: await make(model, benchPrompt(job.promptTokens)),
    answer: async (question) => {
      await letGo();
      return Array.from(await model.logits((question as ModelQuestion).logitsOf));
    },
    release: letGo,
  };
}

/** Reads the prompt anew each time, to its first token. */
export const prepareModelPrefill = (device: GPUDevice, job: ModelJob): Promise<Prepared> =>
  prepare(device, job, async (model, prompt) => async (count) => {
    for (let index = 0; index < count; index++) for await (const _ of model.generate(prompt, { maxNewTokens: 1 }));
    await device.queue.onSubmittedWorkDone();
  });

/**
 * Decodes token by token behind the prompt. Greedy decoding keeps a step ahead of what has been read back; the GPU is idle
 * before and after a run, so that a run of n tokens is n steps and n readbacks.
 */
export const prepareModelDecode = (device: GPUDevice, job: ModelJob): Promise<Prepared> =>
  prepare(device, job, async (model, prompt) => {
    const pieces = model.generate(prompt, { maxNewTokens: 2 * job.newTokens + 8 })[Symbol.asyncIterator]();
    held = pieces;
    await pieces.next();
    await device.queue.onSubmittedWorkDone();
    return async (count) => {
      for (let index = 0; index < count; index++) {
        const { done } = await pieces.next();
        if (done) throw new Error(`the answer ended before ${count} tokens were decoded`);
      }
      await device.queue.onSubmittedWorkDone();
    };
  });
