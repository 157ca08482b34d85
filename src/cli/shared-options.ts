/** Options that several commands have. */
import { Option } from "commander";
import { UsageError } from "./errors.ts";

/** `--json` */
export const jsonOption = () => new Option("--json", "one JSON document on standard output, nothing else");

/** `--runtime chrome|node` */
export const runtimeOption = () =>
  new Option("--runtime <runtime>", "headless Chrome, or the npm package webgpu in Node")
    .choices(["chrome", "node"])
    .default("chrome");

/** `--adapter NAME` */
export const adapterOption = () =>
  new Option(
    "--adapter <name>",
    "GPU adapter: swiftshader, default, or with --runtime node also lavapipe or a part of an adapter's name",
  );

/** The adapter for Chrome. @throws {UsageError} for a name that only Node's WebGPU can choose by. */
export function chromeAdapter(name: string | undefined): "swiftshader" | "default" | undefined {
  if (name === undefined || name === "swiftshader" || name === "default") return name;
  throw new UsageError(
    `--adapter ${name}: Chrome chooses between swiftshader and default; other names need --runtime node`,
  );
}
