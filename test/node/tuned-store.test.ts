/** The file store of tuned choices: writers at once, files that are no records, folders that are none. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import type { TunedRecord } from "../../src/kernels/tuned-record.ts";
import { createFileStore } from "../../src/kernels/tuned-store.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ringwise-tuned-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const record = (id: string): TunedRecord => ({
  ...{ version: 1, adapter: "a", driver: "d", library: "l", kernels: "k", shape: "s", id },
  ...{ measuredOn: "m", date: "2026", candidates: [] },
});

it("finds again what was kept, by its whole key", async () => {
  const store = createFileStore(join(folder, "deep", "er"));
  expect(await store.get("some | key")).toBeUndefined();
  await store.set("some | key", record("one"));
  await store.set("some   key", record("two"));
  expect(await createFileStore(join(folder, "deep", "er")).get("some | key")).toEqual(record("one"));
  expect(await store.get("some   key")).toEqual(record("two"));
});

it("many writers at once leave one whole record of one of them, and nothing beside it", async () => {
  const ids = Array.from({ length: 40 }, (_, index) => `${index}`.repeat(2000));
  await Promise.all(ids.map((id) => createFileStore(folder).set("key", record(id))));
  expect(ids).toContain(((await createFileStore(folder).get("key")) as TunedRecord).id);
  expect(readdirSync(folder)).toHaveLength(1);
});

it("a broken file is an error, which the next record mends; another key's file is nobody's", async () => {
  const store = createFileStore(folder);
  await store.set("key", record("one"));
  const [file] = readdirSync(folder) as [string];
  writeFileSync(join(folder, file), '{"key": "key", "rec');
  await expect(store.get("key")).rejects.toThrow(SyntaxError);
  writeFileSync(join(folder, file), JSON.stringify({ key: "other", record: record("one") }));
  expect(await store.get("key")).toBeUndefined();
  await store.set("key", record("two"));
  expect(await store.get("key")).toEqual(record("two"));
});

it("a folder that cannot be made is an error, and leaves nothing", async () => {
  writeFileSync(join(folder, "file"), "");
  const store = createFileStore(join(folder, "file", "below"));
  expect(await store.get("key")).toBeUndefined();
  await expect(store.set("key", record("one"))).rejects.toThrow(/ENOTDIR|EEXIST/);
  // A folder where the file should be: the rename fails, and its new text is removed.
  const other = createFileStore(folder);
  await other.set("key", record("one"));
  const file = readdirSync(folder).find((name) => name !== "file")!;
  rmSync(join(folder, file));
  mkdirSync(join(folder, file));
  await expect(other.set("key", record("two"))).rejects.toThrow(/EISDIR|ENOTEMPTY|EEXIST/);
  expect(readdirSync(folder).sort()).toEqual([file, "file"].sort());
});

it("is in the platform's cache folder unless told otherwise", () => {
  const before = process.env.XDG_CACHE_HOME;
  process.env.XDG_CACHE_HOME = folder;
  try {
    expect(createFileStore().name).toBe(`files in ${join(folder, "ringwise", "tuned")}`);
  } finally {
    if (before === undefined) delete process.env.XDG_CACHE_HOME;
    else process.env.XDG_CACHE_HOME = before;
  }
});
