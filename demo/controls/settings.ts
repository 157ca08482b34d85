/** The form is the state: what the person chose is read from it, and URL parameters are written into it. */
import { byId } from "../dom.ts";
import type { PeerRunChoice } from "../peers/peer-protocol.ts";
import type { RoomChoice } from "../peers/peers-part.ts";
import type { NeedleJob, RingChoice, SamplingChoice } from "../protocol.ts";

const form = () => byId<HTMLFormElement>("controls");
const needleForm = () => byId<HTMLFormElement>("needle-controls");

type Control = HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement | RadioNodeList;

function control(name: string): Control | null {
  return (form().elements.namedItem(name) ?? needleForm().elements.namedItem(name)) as Control | null;
}

/** The value of a control by its name, as text. */
export function textOf(name: string): string {
  return control(name)?.value ?? "";
}

/** A number field's value, brought into its own limits; its default where it is empty or no number. */
export function numberOf(name: string): number {
  const field = control(name) as HTMLInputElement;
  const value = field.value.trim() === "" ? Number.NaN : Number(field.value);
  if (!Number.isFinite(value)) return Number(field.defaultValue);
  return Math.min(Number(field.max || Infinity), Math.max(Number(field.min || -Infinity), value));
}

/** Sets a control as if the person had. A value that a list does not have yet is added to it. */
export function setControl(name: string, value: string): boolean {
  const field = control(name);
  if (!field) return false;
  if (field instanceof HTMLSelectElement && ![...field.options].some((option) => option.value === value))
    field.add(new Option(value));
  field.value = value;
  const target = field instanceof RadioNodeList ? (field[0] as HTMLElement) : field;
  target.dispatchEvent(new Event("input", { bubbles: true }));
  return true;
}

/** Takes a control out of use; the next change of the form decides anew. */
export function disableControl(name: string): void {
  (control(name) as HTMLInputElement).disabled = true;
}

/** Other words for the same control, as the command line spells them. */
const ALIASES: Readonly<Record<string, string>> = { kv: "blockMemory" };

/**
 * URL parameters are the names of the controls: `?worldSize=4&layout=zigzag&length=4096&depth=50`. `modelId` alone picks
 * Hugging Face; `world-size` is read as `worldSize`.
 */
export function applyUrl(parameters: URLSearchParams): void {
  for (const [name, value] of parameters) {
    const camel = name.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
    setControl(ALIASES[camel] ?? camel, value);
    if (camel === "modelId" && !parameters.has("model")) setControl("model", "hub");
  }
}

/** The ring that the form asks for; other kinds of attention have one rank and keep its block on the GPU. */
export function readRing(): RingChoice {
  const attention = textOf("attention") as RingChoice["attention"];
  const isRing = attention === "ring";
  return {
    worldSize: isRing ? Math.round(numberOf("worldSize")) : 1,
    layout: textOf("layout") as RingChoice["layout"],
    blockMemory: isRing ? (textOf("blockMemory") as RingChoice["blockMemory"]) : "gpu",
    attention,
  };
}

/** How the form asks for the answer to be sampled. */
export const readSampling = (): SamplingChoice => ({
  maxNewTokens: Math.round(numberOf("maxNewTokens")),
  temperature: numberOf("temperature"),
  topP: numberOf("topP"),
  seed: Math.round(numberOf("seed")),
});

/** How the form asks for a run over peers. */
export const readPeerRun = (): PeerRunChoice => ({
  wireDtype: textOf("wireDtype") as PeerRunChoice["wireDtype"],
  replicas: textOf("replicas") === "1" ? 1 : 0,
});

/** How rooms are made, from the URL alone: `relay`, `strategy`, `link`, `lanes`, `stun` (given once for each server). */
export function readRoom(parameters: URLSearchParams): RoomChoice {
  const relayUrl = parameters.get("relay");
  const link = parameters.get("link");
  const lanes = Number(parameters.get("lanes") ?? 0);
  const stun = parameters.getAll("stun");
  return {
    ...(relayUrl ? { signalling: { relayUrl } } : {}),
    ...(parameters.get("strategy") === "nostr" ? { signalling: { strategy: "nostr" as const } } : {}),
    ...(link === "tab" || link === "webrtc" ? { link } : {}),
    ...(lanes >= 1 ? { lanes: Math.round(lanes) } : {}),
    ...(stun.length > 0 ? { iceServers: [{ urls: stun }] } : {}),
  };
}

/** Lengths (1K, 2K, 4K, ... up to the one chosen) and depths (evenly from 0 to 100%) of the needle test. */
export function readNeedle(): Pick<NeedleJob, "lengths" | "depths" | "seed"> {
  const longest = Number(textOf("needleLength"));
  const lengths: number[] = [];
  for (let length = Math.min(1024, longest); length < longest; length *= 2) lengths.push(length);
  lengths.push(longest);
  const count = Number(textOf("needleDepths"));
  const depths = Array.from({ length: count }, (_, index) => Math.round((index * 100) / Math.max(1, count - 1)));
  return { lengths, depths, seed: Math.round(numberOf("seed")) };
}

/**
 * Shows the panels that belong to the chosen segments, and keeps the numbers beside the sliders true.
 * @returns does so again: for when something else than the form has changed
 */
export function bindForm(onChange: () => void): () => void {
  const update = () => {
    for (const panel of form().querySelectorAll<HTMLElement>("[data-for]"))
      panel.hidden = textOf(panel.dataset.for!) !== panel.dataset.value;
    const isRing = textOf("attention") === "ring";
    for (const name of ["worldSize", "layout", "blockMemory"]) (control(name) as HTMLInputElement).disabled = !isRing;
    (control("attention") as HTMLSelectElement).disabled = false;
    byId("attention-note").hidden = isRing;
    byId("depth-output").textContent = `${textOf("depth")}%`;
    byId("depth").setAttribute("aria-valuetext", `${textOf("depth")}%`);
    byId("world-size-output").textContent = textOf("worldSize");
    onChange();
  };
  form().addEventListener("input", update);
  update();
  return update;
}
