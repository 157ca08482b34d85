/** What a Linux binary asks of the machine it runs on, read from its ELF headers: libraries, and versions of their symbols. */

/** The needs of one binary. */
export interface ElfNeeds {
  /** Shared libraries by soname, in the file's order: "libc.so.6". */
  libraries: string[];
  /** Highest version asked for, by family: `{ GLIBC: "2.34", GLIBCXX: "3.4.30" }`. */
  versions: Record<string, string>;
}

const SECTION_STRTAB = 3;
const SECTION_DYNAMIC = 6;
const SECTION_VERNEED = 0x6ffffffe;
const DT_NEEDED = 1n;
const MACHINE_X86_64 = 62;

/** "2.9" before "2.34": parts compare as numbers. */
export function compareVersions(a: string, b: string): number {
  const [left, right] = [a.split(".").map(Number), b.split(".").map(Number)];
  for (let index = 0; index < Math.max(left.length, right.length); index++) {
    const difference = (left[index] ?? 0) - (right[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** The higher of each family, over several binaries. */
export function mergeVersions(all: readonly Record<string, string>[]): Record<string, string> {
  const highest: Record<string, string> = {};
  for (const versions of all)
    for (const [family, version] of Object.entries(versions))
      if (!highest[family] || compareVersions(version, highest[family]) > 0) highest[family] = version;
  return highest;
}

/**
 * Reads the needs of a 64-bit little-endian x86-64 ELF file.
 * @throws {TypeError} for anything else
 * Source: System V ABI, "Object Files"; Linux Standard Base, "Symbol Versioning".
 */
export function readElfNeeds(file: Uint8Array): ElfNeeds {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.byteLength < 64 || view.getUint32(0) !== 0x7f454c46 || file[4] !== 2 || file[5] !== 1)
    throw new TypeError("readElfNeeds: expected a 64-bit little-endian ELF file");
  const machine = view.getUint16(18, true);
  if (machine !== MACHINE_X86_64)
    throw new TypeError(`readElfNeeds: expected machine 62 (x86-64), got machine ${machine}`);
  const tableOffset = Number(view.getBigUint64(40, true));
  const entrySize = view.getUint16(58, true);
  const sections = Array.from({ length: view.getUint16(60, true) }, (_, index) => {
    const at = tableOffset + index * entrySize;
    return {
      type: view.getUint32(at + 4, true),
      offset: Number(view.getBigUint64(at + 24, true)),
      byteLength: Number(view.getBigUint64(at + 32, true)),
      link: view.getUint32(at + 40, true),
      info: view.getUint32(at + 44, true),
    };
  });
  /** A string of the table that belongs to a section. */
  const text = (section: (typeof sections)[number], place: number) => {
    const table = sections[section.link];
    if (table?.type !== SECTION_STRTAB) throw new TypeError("readElfNeeds: a section without its table of strings");
    const start = table.offset + place;
    return Buffer.from(file.subarray(start, file.indexOf(0, start))).toString("latin1");
  };

  const libraries: string[] = [];
  for (const section of sections.filter(({ type }) => type === SECTION_DYNAMIC))
    for (let at = section.offset; at < section.offset + section.byteLength; at += 16)
      if (view.getBigUint64(at, true) === DT_NEEDED)
        libraries.push(text(section, Number(view.getBigUint64(at + 8, true))));

  const found: Record<string, string>[] = [];
  for (const section of sections.filter(({ type }) => type === SECTION_VERNEED)) {
    let record = section.offset;
    for (let index = 0; index < section.info; index++) {
      let entry = record + view.getUint32(record + 8, true);
      for (let count = view.getUint16(record + 2, true); count > 0; count--) {
        const match = /^([A-Z]+)_(\d+(?:\.\d+)*)$/.exec(text(section, view.getUint32(entry + 8, true)));
        if (match) found.push({ [match[1]!]: match[2]! });
        entry += view.getUint32(entry + 12, true);
      }
      record += view.getUint32(record + 12, true);
    }
  }
  return { libraries, versions: mergeVersions(found) };
}
