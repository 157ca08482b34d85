/** What `./start` of a bench bundle runs once the box is checked: correctness, tuning, the table, written as they come. */
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { UsageError } from "../../src/cli/errors.ts";
import { createNodeDevice } from "../../src/cli/node-device.ts";
import { UnsupportedDeviceError } from "../../src/index.ts";
import { caseNames } from "../cases.ts";
import { torchRatios } from "./markdown.ts";
import { type BundleOptions, HELP, readOptions } from "./options.ts";
import { type Manifest, openSession, outputFolder } from "./session.ts";
import { checkCorrectness, measureTable, tune } from "./stages.ts";

const app = dirname(fileURLToPath(import.meta.url));
const bundle = dirname(app);

async function run(options: BundleOptions): Promise<number> {
  const unknown = options.cases?.find((name) => !caseNames().includes(name));
  if (unknown !== undefined)
    throw new UsageError(`--case ${unknown}: no such case; there are ${caseNames().join(", ")}`);
  const folder = outputFolder(options.out);
  const manifest = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8")) as Manifest;
  const device = await createNodeDevice(options.adapter);
  const session = openSession(device, options, manifest, folder);
  let bad = await checkCorrectness(session);
  if (!options.onlyCorrectness) {
    if (!options.isQuick && options.withTuning) await tune(session);
    bad += await measureTable(session, join(app, "torch_bench.py"));
    for (const { case: name, dtype, ratio, torch } of torchRatios(session.document.results))
      if (ratio !== undefined)
        console.log(`${name} ${dtype}: torch (${torch.implementation}) takes ${ratio.toFixed(2)} of Ringwise's time`);
  }
  console.log(`results: ${join(folder, "results.md")}`);
  device.destroy();
  return bad > 0 || session.lost() !== undefined ? 1 : 0;
}

async function main(): Promise<number> {
  try {
    const options = readOptions(process.argv.slice(2), join(bundle, "out"));
    if (options) return await run(options);
    console.log(HELP);
    return 0;
  } catch (error) {
    if (error instanceof UsageError) {
      console.error(`start: ${error.message}`);
      return 2;
    }
    if (!(error instanceof UnsupportedDeviceError)) throw error;
    console.error("start: no Vulkan driver of this box found a device that it can drive with WebGPU's needs.");
    console.error(
      "start: VK_LOADER_DEBUG=error,warn,driver ./start --quick says what the loader thinks of each driver.",
    );
    return 3;
  }
}

// Dawn's threads outlive the last device: an ordinary end would wait for them.
process.exit(await main());
