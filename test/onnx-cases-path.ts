/** Which file RINGWISE_ONNX_CASES names: read where the tests are configured, since a browser knows no working directory. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";

/**
 * The absolute path of the file, or null where the variable is not set. A relative path counts from where npm was called
 * (INIT_CWD: npm itself changes to the project's root), or else from the working directory.
 */
export function onnxCasesPath(env: Record<string, string | undefined>, cwd = process.cwd()): string | null {
  const path = env.RINGWISE_ONNX_CASES;
  if (!path) return null;
  const candidates = [env.INIT_CWD ?? cwd, cwd].map((folder) => resolve(folder, path));
  return candidates.find((candidate) => existsSync(candidate)) ?? candidates[0]!;
}
