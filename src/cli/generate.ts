/** `ringwise generate`: text from a model, in headless Chrome or in Node. */
import { readFileSync } from "node:fs";
import { Command, Option } from "commander";
import type { AttentionKind, BlockMemory, Prompt, RingLayout, WireDtype } from "../index.ts";
import { UsageError } from "./errors.ts";
import { openFolder } from "./folder-source.ts";
import { type GenerateJob, type GenerateResult, runGenerate } from "./generate-job.ts";
import { generateWithPeers, refuseWithoutPeers } from "./generate-peers.ts";
import { runInPage } from "./harness.ts";
import type { JobEvent } from "./job-progress.ts";
import { type ModelPlace, placeOf } from "./model-place.ts";
import { createNodeDevice } from "./node-device.ts";
import { integer, number, tokenIds } from "./parse.ts";
import { RING_LINKS, type RingLink } from "./peer-ring.ts";
import { formatRing, formatSpeed } from "./ring-table.ts";
import { adapterOption, chromeAdapter, jsonOption, runtimeOption } from "./shared-options.ts";
import { openTerminal, type Terminal } from "./terminal.ts";

interface GenerateFlags {
  model?: string;
  prompt?: string;
  promptFile?: string;
  promptIds?: number[];
  chat?: boolean;
  maxNewTokens: number;
  temperature: number;
  topP: number;
  topK: number;
  seed: number;
  worldSize: number;
  layout: RingLayout;
  kv: BlockMemory;
  attention: AttentionKind;
  bos: boolean;
  runtime: "chrome" | "node";
  peers?: number;
  link?: RingLink;
  wire?: WireDtype;
  replicas?: number;
  adapter?: string;
  json?: boolean;
}

function promptOf(flags: GenerateFlags): Prompt {
  const given = [flags.prompt, flags.promptFile, flags.promptIds].filter((value) => value !== undefined);
  if (given.length !== 1)
    throw new UsageError("generate: expected one of --prompt, --prompt-file and --prompt-ids, got none");
  if (flags.promptIds) {
    if (flags.chat) throw new UsageError("generate: --chat takes a text, not --prompt-ids");
    return flags.promptIds;
  }
  const text = flags.prompt ?? readPrompt(flags.promptFile!);
  if (text === "" && !flags.bos) throw new UsageError("generate: an empty prompt needs BOS (leave out --no-bos)");
  return flags.chat ? [{ role: "user", content: text }] : text;
}

function readPrompt(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw new UsageError(`--prompt-file ${file}: ${(error as Error).message}`);
  }
}

/** Runs the job where `--runtime` says. */
async function run(flags: GenerateFlags, place: ModelPlace, job: GenerateJob, terminal: Terminal) {
  const onEvent = (event: JobEvent) =>
    event.type === "piece" ? terminal.write(event.text) : terminal.progress(event.message);
  if (flags.runtime === "node") {
    const device = await createNodeDevice(flags.adapter);
    return runGenerate(device, "folder" in place ? await openFolder(place.folder) : place.source, job, onEvent);
  }
  const mounts = "folder" in place ? [{ path: "/model/", folder: place.folder }] : [];
  const source = "folder" in place ? "/model/" : place.source;
  return runInPage<GenerateResult, JobEvent>(
    "generate",
    { source, job },
    { adapter: chromeAdapter(flags.adapter), mounts, onEvent, log: terminal.log },
  );
}

async function generate(flags: GenerateFlags): Promise<void> {
  const terminal = openTerminal(flags.json === true);
  const prompt = promptOf(flags);
  if (flags.peers !== undefined) return generateWithPeers(prompt, { ...flags, peers: flags.peers }, terminal);
  refuseWithoutPeers(flags);
  if (flags.attention !== "ring" && flags.kv === "host")
    throw new UsageError(`--kv host: only --attention ring keeps K/V blocks in host memory, got ${flags.attention}`);
  if (flags.attention !== "ring" && flags.worldSize > 1)
    terminal.log(`--attention ${flags.attention} runs on one rank: --world-size ${flags.worldSize} rests.`);
  const job: GenerateJob = {
    prompt,
    addBos: flags.bos,
    maxNewTokens: flags.maxNewTokens,
    temperature: flags.temperature,
    topP: flags.topP,
    topK: flags.topK,
    seed: flags.seed,
    worldSize: flags.worldSize,
    layout: flags.layout,
    blockMemory: flags.kv,
    attention: flags.attention,
    token: process.env.HF_TOKEN,
  };
  const result = await run(flags, placeOf(flags.model), job, terminal);
  terminal.write("\n");
  if (!flags.json) terminal.log(`${formatSpeed(result)}\n${formatRing(result.ring)}`);
  terminal.result({ runtime: flags.runtime, ...result }, "");
}

/** The `generate` command. */
export function generateCommand(): Command {
  return new Command("generate")
    .description("generate text with a model, on a ring of GPU buffers")
    .option("--model <source>", "Hugging Face id, URL, or folder (default: the model that Ringwise ships)")
    .addOption(new Option("--prompt <text>", "the prompt; empty: BOS alone").conflicts(["promptFile", "promptIds"]))
    .addOption(new Option("--prompt-file <file>", "a file holding the prompt").conflicts("promptIds"))
    .option("--prompt-ids <ids>", "the prompt as token ids: 1,2,3", tokenIds)
    .option("--chat", "put the prompt through the model's chat template, as the user's message")
    .option("--max-new-tokens <n>", "tokens to generate", integer(1), 128)
    .option("--temperature <x>", "0: greedy", number(0), 0)
    .option("--top-p <x>", "keep the likeliest tokens up to this probability", number(0, 1, true), 1)
    .option("--top-k <n>", "keep the n likeliest tokens; 0: all", integer(0), 0)
    .option("--seed <n>", "seed of the sampler", integer(0, 0xffffffff), 0)
    .option("--world-size <n>", "ranks of the ring", integer(1, 64), 1)
    .option("--peers <n>", "a ring of n peers, each with a GPU device of its own, all started here", integer(1, 64))
    .addOption(
      new Option(
        "--link <link>",
        "with --peers: workers of one page (default); tabs of one Chrome; a Chrome each; tabs by WebRTC; a tab and Node processes",
      ).choices(RING_LINKS),
    )
    .addOption(
      new Option("--wire <type>", "with --peers: keys and values on their way (default f32)").choices(["f32", "f16"]),
    )
    .option("--replicas <n>", "with --peers: copies of each peer's keys and values at its neighbour", integer(0, 1))
    .addOption(
      new Option("--layout <layout>", "which tokens a rank owns")
        .choices(["contiguous", "zigzag", "striped"])
        .default("zigzag"),
    )
    .addOption(new Option("--kv <memory>", "where K/V blocks live").choices(["gpu", "host"]).default("gpu"))
    .addOption(
      new Option("--attention <kind>", "how attention is computed")
        .choices(["vanilla", "flash", "blockwise", "ring"])
        .default("ring"),
    )
    .option("--no-bos", "do not put BOS in front")
    .addOption(runtimeOption())
    .addOption(adapterOption())
    .addOption(jsonOption())
    .action(generate);
}
