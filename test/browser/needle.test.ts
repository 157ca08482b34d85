/** The default model, loaded and run as anyone would, finds the needle at every depth, on rings of several kinds. */
import { afterAll, describe, expect, it } from "vitest";
import { loadModel } from "../../src/model/load-model.ts";
import { needleText } from "../../src/model/needle-text.ts";
import type { Model, RingOptions } from "../../src/model/types.ts";
import { testDevice } from "./model-fixtures.ts";

const rings: Record<number, RingOptions> = {
  0: { worldSize: 4, layout: "zigzag", blockMemory: "gpu" },
  25: { worldSize: 1 },
  50: { worldSize: 3, layout: "striped", blockMemory: "gpu" },
  75: { worldSize: 2, layout: "contiguous", blockMemory: "host" },
  100: { worldSize: 4, layout: "zigzag", blockMemory: "gpu" },
};

describe("the default model", () => {
  let model: Model | undefined;
  afterAll(() => model?.destroy());
  const load = async () =>
    (model ??= await loadModel(new URL("/models/default/", location.href), { device: await testDevice() }));

  for (const length of [1024, 4096])
    for (const depth of [0, 25, 50, 75, 100])
      it(`finds the needle at depth ${depth}% of ${length} tokens`, async () => {
        const model = await load();
        await model.setRing(rings[depth]!);
        const { text, question, answer } = needleText({ length, depth, seed: length + depth });
        const run = model.generate(text + question, { maxNewTokens: 40 });
        let got = "";
        for await (const piece of run) got += piece.text;
        expect(got.trimEnd()).toBe(answer);
        const { statistics } = run;
        expect(statistics.stopReason).toBe("stopId");
        expect(statistics.promptTokens).toBe(length + 1);
        console.log(
          `${length} tokens, ${JSON.stringify(rings[depth])}: prefill ${statistics.prefillTokensPerSecond.toFixed(0)} tokens/s, decode ${statistics.decodeTokensPerSecond.toFixed(1)} tokens/s`,
        );
      });

  it("says nothing where it was told nothing", async () => {
    const model = await load();
    const run = model.generate("");
    let got = "";
    for await (const piece of run) got += piece.text;
    expect(got).toBe("");
    expect(run.statistics.stopReason).toBe("stopId");
  });
});
