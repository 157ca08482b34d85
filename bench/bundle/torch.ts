/** torch.nn.functional.scaled_dot_product_attention beside Ringwise: a python3 that answers line by line (torch_bench.py). */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type AttentionCase, attentionFlops } from "../../test/cases.ts";
import { judge, TOLERANCE } from "../against/verdict.ts";
import { attentionInputs, expectedRows, spreadRows } from "../attention-oracle.ts";
import type { BenchResult } from "../result-types.ts";
import { summarize } from "../statistics.ts";

/** What an answer may hold; which of it depends on the question. */
interface Answer {
  ok: boolean;
  reason?: string;
  torch?: string;
  cuda?: string | null;
  device?: string;
  tf32?: boolean;
  backend?: string;
  ownChoice?: string | null;
  trialMs?: Record<string, number>;
  samples?: number[];
}

/** A running python3 with torch. */
export interface Torch {
  /** e.g. "2.11.0+cu130", "13.0" (undefined on the CPU), "NVIDIA H100 80GB HBM3". */
  version: string;
  cuda?: string;
  device: string;
  /** Whether products of f32 come out with the mantissa of TensorFloat-32, all switches notwithstanding. */
  hasTf32: boolean;
  /** Loads a case; `measure` then gives samples of it, in milliseconds. Rejects with torch's own words. */
  prepare(shape: AttentionCase, dtype: "f32" | "f16", warmups: number): Promise<TorchCase>;
  /** Lets go of what was prepared: one case per dtype is held until then. */
  release(): Promise<void>;
  close(): void;
}

/** A case that torch holds. */
export interface TorchCase {
  /** The fastest backend that runs it, and what torch takes when nobody asks for one. */
  backend: string;
  ownChoice?: string;
  /** Milliseconds of a first trial of each backend. */
  trialMs: Record<string, number>;
  /** Against the float64 oracle, over the rows that Ringwise is checked on too: largest absolute difference, and verdict. */
  maxError: number;
  isRight: boolean;
  /** Why it is not right. */
  reason?: string;
  errorRows: number;
  measure(repeats: number, minSampleMs: number): Promise<number[]>;
}

/**
 * As shares of the largest expected value: f32 as for every peer; f16 looser, since fused kernels round the probabilities
 * to f16 too. An error of another mask or another scale is far above both.
 */
const TOLERANCES = { f32: TOLERANCE, f16: 1e-2 };

/** Bytes of a tensor as torch_bench.py reads them. */
const bytesOf = (data: Float32Array) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** Longer than any question should take: loading torch, or a trial of every backend on the largest case. */
const ANSWER_WITHIN_MS = 120_000;

/** Questions go in turn: each waits for the answer to the one before. */
function conversation(child: ChildProcess) {
  const waiting: { resolve(answer: Answer): void; reject(error: Error): void }[] = [];
  const early: Answer[] = [];
  let said = "";
  let gone: Error | undefined;
  const end = (error: Error) => {
    gone ??= error;
    for (const { reject } of waiting.splice(0)) reject(error);
  };
  child.stderr!.setEncoding("utf8").on("data", (text: string) => (said = (said + text).slice(-2000)));
  // A process that is gone is told of by "close"; writing to it would be a second word about it.
  child.stdin!.on("error", () => {});
  createInterface({ input: child.stdout! }).on("line", (line) => {
    let answer: Answer;
    try {
      answer = JSON.parse(line) as Answer;
    } catch {
      // Libraries below torch print lines of their own.
      return;
    }
    const next = waiting.shift();
    if (next) next.resolve(answer);
    else early.push(answer);
  });
  child.once("error", (error) => end(error));
  child.once("close", (code) => end(new Error(`python3 ended with ${code}: ${said.trim().split("\n").at(-1) ?? ""}`)));
  const next = () =>
    new Promise<Answer>((resolve, reject) => {
      const answer = early.shift();
      if (answer) return resolve(answer);
      if (gone) return reject(gone);
      const timer = setTimeout(() => {
        child.kill("SIGKILL");
        end(new Error(`python3 gave no answer within ${ANSWER_WITHIN_MS / 1000} s`));
      }, ANSWER_WITHIN_MS);
      const settled = <T>(settle: (value: T) => void) => {
        return (value: T) => {
          clearTimeout(timer);
          settle(value);
        };
      };
      waiting.push({ resolve: settled(resolve), reject: settled(reject) });
    });
  const ask = (question: object) => {
    child.stdin!.write(`${JSON.stringify(question)}\n`);
    return next();
  };
  return { next, ask };
}

/**
 * Starts python3 with torch.
 * @returns the reason why there is none, as a sentence, where python3, torch or its attention is missing
 */
export async function startTorch(script: string, python = "python3"): Promise<Torch | string> {
  const child = spawn(python, ["-u", script], { stdio: ["pipe", "pipe", "pipe"] });
  const { next, ask } = conversation(child);
  const folder = mkdtempSync(join(tmpdir(), "ringwise-torch-"));
  const close = () => {
    child.stdin!.end();
    rmSync(folder, { recursive: true, force: true });
  };
  let hello: Answer;
  try {
    hello = await next();
  } catch (error) {
    close();
    const { code, message } = error as NodeJS.ErrnoException;
    return code === "ENOENT" ? `there is no ${python} on this machine` : message;
  }
  if (!hello.ok) {
    close();
    return hello.reason ?? "torch did not say why";
  }
  const prepare = async (shape: AttentionCase, dtype: "f32" | "f16", warmups: number): Promise<TorchCase> => {
    const typed: AttentionCase = { ...shape, dtype };
    const inputs = attentionInputs(typed);
    const rows = spreadRows(shape.seqLen);
    const files = { query: join(folder, "query"), key: join(folder, "key"), value: join(folder, "value") };
    for (const name of ["query", "key", "value"] as const) writeFileSync(files[name], bytesOf(inputs[name]));
    const output = join(folder, "output");
    const question = { op: "prepare", shape: typed, dtype, inputs: files, output, rows, warmups };
    const answer = await ask(question);
    if (!answer.ok) throw new Error(answer.reason);
    const bytes = readFileSync(output);
    const got = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    const { isRight, maxError, reason } = judge(got, expectedRows(typed, inputs, rows), TOLERANCES[dtype]);
    return {
      backend: answer.backend!,
      ownChoice: answer.ownChoice ?? undefined,
      trialMs: answer.trialMs!,
      ...{ isRight, maxError, reason },
      errorRows: rows.length * shape.batch,
      async measure(repeats, minSampleMs) {
        const measured = await ask({ op: "measure", dtype, repeats, minSampleMs });
        if (!measured.ok) throw new Error(measured.reason);
        return measured.samples!;
      },
    };
  };
  const release = async () => {
    await ask({ op: "release" });
  };
  const { torch: version = "", cuda, device = "", tf32 = false } = hello;
  return { version, cuda: cuda ?? undefined, device, hasTf32: tf32, prepare, release, close };
}

/** The row of a case that torch ran. */
export function torchResult(
  shape: AttentionCase,
  dtype: "f32" | "f16",
  torchCase: Omit<TorchCase, "measure">,
  samples: readonly number[],
): BenchResult {
  const timeMs = summarize(samples);
  const { backend, ownChoice, trialMs, isRight, reason, maxError, errorRows } = torchCase;
  const figures = Object.fromEntries(Object.entries(trialMs).map(([name, ms]) => [`trial ms, ${name}`, ms]));
  return {
    ...{ case: shape.name, group: "attention", contender: "torch", dtype },
    implementation: `SDPA, ${backend}${ownChoice && ownChoice !== backend ? ` (own choice: ${ownChoice})` : ""}`,
    ...(!isRight && { status: "wrong" as const, reason }),
    ...{ timeMs, seqLen: shape.seqLen, isCausal: shape.isCausal, gflops: attentionFlops(shape) / timeMs.median / 1e6 },
    ...{ maxError, errorRows, figures },
  };
}

/** The row of a case that torch could not run. */
export const torchFailure = (shape: AttentionCase, dtype: "f32" | "f16", reason: string): BenchResult => ({
  ...{ case: shape.name, group: "attention", contender: "torch", implementation: "SDPA", dtype },
  ...{ status: "failed", reason, seqLen: shape.seqLen, isCausal: shape.isCausal },
});
