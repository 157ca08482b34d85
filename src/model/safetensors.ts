/**
 * Safetensors: the header, checked as strictly as the reference implementation does, and shards put together by their
 * index. Format: 8 bytes of header length (little endian), that many bytes of JSON, then the tensors end to end.
 */
import { ModelFormatError, UnsupportedModelError } from "../errors.ts";
import { BYTES_PER_ELEMENT, elementCount, formatShape, type WeightDtype } from "../shape.ts";
import { describeTensor, expectedTensors, type ModelConfig } from "./config.ts";
import { findDuplicateKey } from "./duplicate-keys.ts";
import { describeJson, expectObject, isJsonObject, type JsonObject, parseJson } from "./json.ts";
import type { ModelFiles } from "./types.ts";

/** The single file that most small models come in. */
export const SINGLE_FILE = "model.safetensors";

/** The file that names the shards of larger ones. */
export const INDEX_FILE = "model.safetensors.index.json";

/** Longest header that is read, in bytes: the reference implementation's own limit. */
export const MAX_HEADER_BYTE_LENGTH = 100_000_000;

/** A tensor and where its bytes are. */
export interface StoredTensor {
  name: string;
  dtype: WeightDtype;
  shape: readonly number[];
  /** File that holds it. */
  path: string;
  /** First byte, from the file's start. */
  start: number;
  /** One past its last byte. */
  end: number;
}

const DTYPES: Readonly<Record<string, WeightDtype>> = { F32: "f32", F16: "f16", BF16: "bf16" };

/** Types that the format knows and that are not supported here: refused by name. */
const OTHER_DTYPES = new Set(
  "BOOL U8 I8 I16 U16 I32 U32 I64 U64 F64 C64 F4 F6_E2M3 F6_E3M2 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ".split(
    " ",
  ),
);

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

function parseTensor(where: string, name: string, value: unknown): StoredTensor {
  const entry = expectObject(where, `tensor ${describeJson(name)} to be an object`, value);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== "string" || !(Object.hasOwn(DTYPES, dtype) || OTHER_DTYPES.has(dtype)))
    throw new ModelFormatError(
      `${where}: expected dtype of ${describeJson(name)} to be F32, F16 or BF16, got ${describeJson(dtype)}`,
    );
  if (!Object.hasOwn(DTYPES, dtype))
    throw new UnsupportedModelError(
      `${where}: dtype ${dtype} of ${describeJson(name)} is not supported: expected F32, F16 or BF16`,
    );
  if (!Array.isArray(shape) || !shape.every(isCount) || !Number.isSafeInteger(elementCount(shape) * 4))
    throw new ModelFormatError(
      `${where}: expected shape of ${describeJson(name)} to be a list of counts, got ${describeJson(shape)}`,
    );
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount) || offsets[0]! > offsets[1]!)
    throw new ModelFormatError(
      `${where}: expected data_offsets of ${describeJson(name)} to be [start, end], got ${describeJson(offsets)}`,
    );
  const [start, end] = offsets as [number, number];
  const type = DTYPES[dtype]!;
  const byteLength = elementCount(shape) * BYTES_PER_ELEMENT[type];
  if (end - start !== byteLength)
    throw new ModelFormatError(
      `${where}: expected ${describeJson(name)}, ${dtype} ${describeJson(shape)}, to take ${byteLength} bytes, got ${end - start} (data_offsets ${describeJson(offsets)})`,
    );
  return { name, dtype: type, shape, path: where, start, end };
}

/** Every byte of the data belongs to exactly one tensor: neither overlaps nor holes nor a rest. */
function checkCover(path: string, tensors: StoredTensor[], dataStart: number, fileByteLength: number): void {
  let position = dataStart;
  let previous = "the header";
  for (const tensor of tensors) {
    if (tensor.end > fileByteLength)
      throw new ModelFormatError(
        `${path}: expected ${describeJson(tensor.name)} to end within the file of ${fileByteLength} bytes, got an end at ${tensor.end} (cut short, or not this header's file)`,
      );
    if (tensor.start !== position)
      throw new ModelFormatError(
        `${path}: expected ${describeJson(tensor.name)} to start at ${position - dataStart}, right after ${previous}, got ${tensor.start - dataStart} (${tensor.start < position ? "an overlap" : "a hole"})`,
      );
    position = tensor.end;
    previous = `${describeJson(tensor.name)}`;
  }
  if (position !== fileByteLength)
    throw new ModelFormatError(
      `${path}: expected the tensors to fill the file of ${fileByteLength} bytes, got an end at ${position}`,
    );
}

/**
 * Checks a header's JSON and returns its tensors, in the order in which they lie in the file.
 * @param header The JSON's bytes, without the 8 bytes of length.
 * @param fileByteLength Bytes of the whole file.
 * @throws {ModelFormatError} for a header that lies: offsets, sizes, overlaps, holes, names given twice, ...
 * @throws {UnsupportedModelError} for element types other than F32, F16 and BF16.
 */
export function parseSafetensorsHeader(path: string, header: Uint8Array, fileByteLength: number): StoredTensor[] {
  if (header[0] !== 0x7b)
    throw new ModelFormatError(`${path}: expected the header to start with {, got ${describeJson(header[0])}`);
  const json = expectObject(path, "the header to be a JSON object", parseJson(path, header));
  const duplicate = findDuplicateKey(new TextDecoder().decode(header));
  if (duplicate !== undefined)
    throw new ModelFormatError(`${path}: expected every name in the header once, got ${describeJson(duplicate)} twice`);
  const dataStart = 8 + header.byteLength;
  const tensors: StoredTensor[] = [];
  for (const [name, value] of Object.entries(json)) {
    if (name === "__metadata__") {
      if (!isJsonObject(value) || Object.values(value).some((text) => typeof text !== "string"))
        throw new ModelFormatError(`${path}: expected __metadata__ to hold strings only, got ${describeJson(value)}`);
      continue;
    }
    const tensor = parseTensor(path, name, value);
    tensors.push({ ...tensor, start: dataStart + tensor.start, end: dataStart + tensor.end });
  }
  tensors.sort((a, b) => a.start - b.start || a.end - b.end);
  checkCover(path, tensors, dataStart, fileByteLength);
  return tensors;
}

/**
 * Reads and checks the header of one file; of the tensors themselves nothing is read.
 * @throws {ModelFormatError} {@link parseSafetensorsHeader} @throws {UnsupportedModelError} @throws {ModelSourceError}
 */
export async function readSafetensorsHeader(
  files: ModelFiles,
  path: string,
  signal?: AbortSignal,
): Promise<StoredTensor[]> {
  const fileByteLength = await files.size(path, signal);
  if (fileByteLength === undefined)
    throw new ModelFormatError(`${files.name}: expected a file named ${path}, got none`);
  if (fileByteLength < 8)
    throw new ModelFormatError(`${path}: expected at least 8 bytes, got a file of ${fileByteLength}`);
  const prefix = await files.read(path, { start: 0, end: 8 }, signal);
  const view = new DataView(prefix.buffer, prefix.byteOffset, 8);
  // Past 2^53 the sum is inexact, which does not matter: it is far beyond the limit.
  const headerByteLength = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  const most = Math.min(MAX_HEADER_BYTE_LENGTH, fileByteLength - 8);
  if (headerByteLength < 2 || headerByteLength > most)
    throw new ModelFormatError(
      `${path}: expected a header of 2 to ${most} bytes in this file of ${fileByteLength}, got ${headerByteLength}`,
    );
  const header = await files.read(path, { start: 8, end: 8 + headerByteLength }, signal);
  return parseSafetensorsHeader(path, header, fileByteLength);
}

/** The shards that an index names: tensor name -> file. @throws {ModelFormatError} */
function parseIndex(json: JsonObject): Map<string, string> {
  const map = expectObject(INDEX_FILE, "weight_map to be an object", json.weight_map);
  // Plain file names: an index may not lead out of its folder.
  for (const [name, path] of Object.entries(map))
    if (typeof path !== "string" || !/^[^/\\:%]+\.safetensors$/.test(path) || path.startsWith("."))
      throw new ModelFormatError(
        `${INDEX_FILE}: expected weight_map[${describeJson(name)}] to be the name of a .safetensors file, got ${describeJson(path)}`,
      );
  return new Map(Object.entries(map) as [string, string][]);
}

async function readShards(files: ModelFiles, signal?: AbortSignal): Promise<StoredTensor[]> {
  const bytes = await files.read(INDEX_FILE, undefined, signal);
  const json = expectObject(INDEX_FILE, "a JSON object", parseJson(INDEX_FILE, bytes));
  const duplicate = findDuplicateKey(new TextDecoder().decode(bytes));
  if (duplicate !== undefined)
    throw new ModelFormatError(`${INDEX_FILE}: expected every name once, got ${describeJson(duplicate)} twice`);
  const index = parseIndex(json);
  const paths = [...new Set(index.values())].sort();
  const sizes = await Promise.all(paths.map((path) => files.size(path, signal)));
  const absent = paths.filter((_, i) => sizes[i] === undefined);
  if (absent.length > 0)
    throw new ModelFormatError(`${INDEX_FILE}: expected the shards that it names, got no ${listNames(absent)}`);
  const found = new Map<string, StoredTensor>();
  for (const path of paths)
    for (const tensor of await readSafetensorsHeader(files, path, signal)) {
      const other = found.get(tensor.name);
      if (other)
        throw new ModelFormatError(
          `${path}: expected ${describeJson(tensor.name)} in one shard, got it in ${other.path} as well`,
        );
      const named = index.get(tensor.name);
      if (named !== path)
        throw new ModelFormatError(
          `${INDEX_FILE}: expected weight_map[${describeJson(tensor.name)}] to be ${describeJson(path)}, where it is, got ${describeJson(named)}`,
        );
      found.set(tensor.name, tensor);
    }
  const missing = [...index.keys()].filter((name) => !found.has(name));
  if (missing.length > 0)
    throw new ModelFormatError(
      `${INDEX_FILE}: expected the shards to hold what it names, got no ${listNames(missing)}`,
    );
  return [...found.values()];
}

/** `a, b, c and 7 more` */
function listNames(names: readonly string[]): string {
  const shown = names
    .slice(0, 4)
    .map((name) => (name.length > 100 ? `${name.slice(0, 97)}...` : name))
    .join(", ");
  return names.length > 4 ? `${shown} and ${names.length - 4} more` : shown;
}

/**
 * Headers of all weight files: `model.safetensors`, else the shards of `model.safetensors.index.json`. Tensors come in the
 * order in which they lie in the files.
 * @throws {ModelFormatError} for a broken header or index, absent shards, or no weights at all.
 * @throws {UnsupportedModelError} for weights in another format, or of another element type.
 */
export async function readTensorList(files: ModelFiles, signal?: AbortSignal): Promise<StoredTensor[]> {
  if ((await files.size(SINGLE_FILE, signal)) !== undefined) return readSafetensorsHeader(files, SINGLE_FILE, signal);
  if ((await files.size(INDEX_FILE, signal)) !== undefined) return readShards(files, signal);
  for (const path of ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.gguf", "consolidated.00.pth"])
    if ((await files.size(path, signal)) !== undefined)
      throw new UnsupportedModelError(`${files.name}: weights in ${path} are not supported: expected ${SINGLE_FILE}`);
  throw new ModelFormatError(`${files.name}: expected ${SINGLE_FILE} or ${INDEX_FILE}, got neither`);
}

/**
 * Tensors that checkpoints carry and that no one needs: rope frequencies that old exports saved (rope is computed from
 * config.json), and an output head beside tied embeddings (the embedding is the head, as the reference has it).
 */
export function isHarmlessExtra(config: ModelConfig, name: string): boolean {
  return (
    /\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$/.test(name) ||
    (config.tieWordEmbeddings && name === "lm_head.weight")
  );
}

/**
 * The tensors that the model needs, out of those that its files hold, in file order.
 * @throws {ModelFormatError} naming tensors that are missing, extra, or of another shape than config.json says.
 */
export function matchTensors(config: ModelConfig, stored: readonly StoredTensor[]): StoredTensor[] {
  const expected = new Map(expectedTensors(config).map((tensor) => [tensor.name, tensor]));
  const names = new Set(stored.map((tensor) => tensor.name));
  const missing = [...expected.keys()].filter((name) => !names.has(name));
  if (missing.length > 0)
    throw new ModelFormatError(
      `weights: expected the ${expected.size} tensors of this ${config.architecture}, got no ${listNames(missing)}`,
    );
  const needed: StoredTensor[] = [];
  const extra: string[] = [];
  for (const tensor of stored) {
    const wanted = expected.get(tensor.name);
    if (!wanted) {
      if (!isHarmlessExtra(config, tensor.name)) extra.push(tensor.name);
      continue;
    }
    if (formatShape(tensor.shape) !== formatShape(wanted.shape))
      throw new ModelFormatError(
        `${tensor.path}: expected ${describeTensor(wanted)} (from config.json), got ${describeJson(tensor.shape)}`,
      );
    needed.push(tensor);
  }
  if (extra.length > 0)
    throw new ModelFormatError(
      `weights: expected only the ${expected.size} tensors of this ${config.architecture}, got ${listNames(extra)} as well`,
    );
  return needed;
}
