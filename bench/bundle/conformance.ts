/** The conformance cases of the tests on this device, against the float64 oracle: every kernel that the adapter can run. */
import { type AttentionOptions, createAttention, UnsupportedDeviceError } from "../../src/index.ts";
import { expectClose, expected, makeInputs, maxError, optionsOf, uploadCase } from "../../test/attention-harness.ts";
import type { AttentionCase } from "../../test/cases.ts";

/** One way to compute attention, under the name that the report shows. */
export interface Implementation {
  name: string;
  options: Partial<AttentionOptions>;
  /** Which cases it is for. Absent: all. */
  concerns?: (shape: AttentionCase) => boolean;
}

/** What came of one case with one implementation. */
export interface ConformanceResult {
  case: string;
  dtype: "f32" | "f16";
  implementation: string;
  /** "unsupported": the library refuses it on this device, with its reason. "not run": time was up. */
  status: "ok" | "wrong" | "failed" | "unsupported" | "not run";
  reason?: string;
  /** Largest absolute difference of the output from the oracle. */
  maxError?: number;
}

/** What to run, and until when. */
export interface ConformanceJob {
  cases: readonly AttentionCase[];
  implementations: readonly Implementation[];
  dtypes: readonly ("f32" | "f16")[];
  /** Of `performance.now()`: what has not begun by then is reported as not run. */
  deadlineMs: number;
  /** Checks that go on at the same time: drivers compile on several processors, and compiling is what takes long. */
  concurrency: number;
  onProgress: (message: string) => void;
}

const reasonOf = (error: unknown) => (error instanceof Error ? error.message : String(error)).split("\n")[0]!;

/** The oracle's and a plain computation's answer: made once for all implementations of a case. */
function answersOf(shape: AttentionCase) {
  const inputs = makeInputs(shape);
  return { inputs, oracle: expected(shape, inputs), plain: expected(shape, inputs, "f32") };
}

async function conform(
  device: GPUDevice,
  shape: AttentionCase,
  implementation: Implementation,
  { inputs, oracle, plain }: ReturnType<typeof answersOf>,
): Promise<Pick<ConformanceResult, "status" | "reason" | "maxError">> {
  const gpu = await uploadCase(device, shape, inputs);
  try {
    const attention = await createAttention(device, { ...optionsOf(shape), ...implementation.options });
    try {
      const got = await gpu.run((target) => attention.encode(target, gpu.tensors));
      const largest = maxError(got.output, oracle.output);
      try {
        expectClose(got, oracle, plain, shape.dtype);
        return { status: "ok", maxError: largest };
      } catch (error) {
        return { status: "wrong", reason: reasonOf(error), ...(Number.isFinite(largest) && { maxError: largest }) };
      }
    } finally {
      attention.destroy();
    }
  } catch (error) {
    return { status: error instanceof UnsupportedDeviceError ? "unsupported" : "failed", reason: reasonOf(error) };
  } finally {
    gpu.destroy();
  }
}

/**
 * Runs every case with every implementation; the first implementation meets all cases before the second begins, so that
 * what is chosen by default is checked whole even where time runs out.
 */
export async function runConformance(device: GPUDevice, job: ConformanceJob): Promise<ConformanceResult[]> {
  const answers = new Map<AttentionCase, ReturnType<typeof answersOf>>();
  const shapes = job.dtypes.flatMap((dtype) => job.cases.map((shape): AttentionCase => ({ ...shape, dtype })));
  const checks = job.implementations.flatMap((implementation) =>
    shapes.filter(implementation.concerns ?? (() => true)).map((shape) => ({ implementation, shape })),
  );
  const results: ConformanceResult[] = new Array(checks.length);
  let begun = 0;
  const work = async () => {
    while (begun < checks.length) {
      const index = begun++;
      const { implementation, shape } = checks[index]!;
      const about = { case: shape.name, dtype: shape.dtype, implementation: implementation.name };
      if (performance.now() > job.deadlineMs) {
        results[index] = { ...about, status: "not run" };
        continue;
      }
      job.onProgress(`${index + 1}/${checks.length} ${about.implementation}, ${about.dtype}, ${about.case}`);
      let answer = answers.get(shape);
      if (!answer) answers.set(shape, (answer = answersOf(shape)));
      results[index] = { ...about, ...(await conform(device, shape, implementation, answer)) };
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, job.concurrency) }, work));
  return results;
}
