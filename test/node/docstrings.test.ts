/** Every public export says what it is; the check itself is tested on a module that lacks what it looks for. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { missingDocstrings } from "../../scripts/docstrings.mjs";

it("every public export has a docstring, and names what it throws", () => {
  expect(missingDocstrings(fileURLToPath(new URL("../../src/index.ts", import.meta.url)))).toEqual([]);
});

it("finds what is missing", () => {
  const folder = mkdtempSync(join(tmpdir(), "ringwise-docstrings-"));
  try {
    mkdirSync(join(folder, "src"));
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions: { target: "ES2022", types: [] } }));
    const entry = join(folder, "src/index.ts");
    writeFileSync(
      entry,
      `export const bare = 1;
/** Good. */ export const good = 2;
/** Does it. */ export function silent(): void { throw new Error("no"); }
/** Does it. @throws {Error} always */ export function honest(): void { throw new Error("no"); }
/** A class. */ export class Thing {
  method(): void {}
  /** Said. */
  said(): void {}
  private hidden(): void {}
}
/** A shape. */ export interface Shape {
  a: number;
  area(): number;
  /** Said. */ said(): void;
  [Symbol.dispose](): void;
}
/** Another. */ export class Square implements Shape { a = 1; area() { return 1; } said() {} [Symbol.dispose]() {} }
`,
    );
    expect(missingDocstrings(entry)).toEqual([
      "Shape.area: no docstring (src/index.ts:13)",
      "Square.area: no docstring (src/index.ts:17)",
      "Thing.method: no docstring (src/index.ts:6)",
      "bare: no docstring (src/index.ts:1)",
      "silent: throws and does not say what (@throws) (src/index.ts:3)",
    ]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
