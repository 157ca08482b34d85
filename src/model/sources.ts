/** Every kind of source becomes one thing: a folder of files, read by name and range. */
import { OptionError } from "../errors.ts";
import { describeValue } from "../shape.ts";
import { openDirectory, openFiles } from "./source-files.ts";
import { openUrl } from "./source-http.ts";
import { type HubOptions, isHubId, openHub } from "./source-hub.ts";
import type { ModelFiles, ModelSource } from "./types.ts";

export { sourceFromDrop } from "./source-files.ts";
export { isHubId } from "./source-hub.ts";

const EXPECTED = 'a Hugging Face id ("owner/name"), the URL of a folder, files, or a folder';

/**
 * The address that a string means: absolute, or relative to this page ("./models/x", "/models/x", "models/x/").
 * @throws {OptionError} for what is no address of a folder.
 */
function parseUrl(text: string): URL {
  const place = (globalThis as { location?: { href: string } }).location?.href;
  let url: URL | undefined;
  try {
    // In Node and in blob workers there is no page to be relative to.
    url = place?.startsWith("http") ? new URL(text, place) : new URL(text);
  } catch {
    // Said below.
  }
  if (url && /^https?:$/.test(url.protocol)) return url;
  throw new OptionError(`openModelSource: expected ${EXPECTED}, got ${describeValue(text)}`);
}

/**
 * Opens a source; of its files nothing is fetched yet. "owner/name" is an id on the Hugging Face hub; a string that starts with
 * http:, https:, "/", "./" or "../", or ends with "/", is the address of a folder.
 * @param options token and cache for the hub; retries and headers for addresses.
 * @throws {OptionError} for something that is no source.
 */
export async function openModelSource(source: ModelSource, options: HubOptions = {}): Promise<ModelFiles> {
  if (typeof source === "string")
    return isHubId(source) ? openHub(source, options) : openUrl(parseUrl(source), options);
  if (source instanceof URL) return openUrl(parseUrl(source.href), options);
  if (Array.isArray(source)) {
    if (source.every((file) => typeof File !== "undefined" && file instanceof File)) return openFiles(source);
  } else if (typeof source === "object" && source !== null) {
    if ("kind" in source && source.kind === "directory") return openDirectory(source);
    if ("read" in source && "size" in source && typeof source.read === "function") return source;
  }
  throw new OptionError(`openModelSource: expected ${EXPECTED}, got ${describeValue(source)}`);
}
