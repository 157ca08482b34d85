/** The demo page: binds the form to a session. */
import { hasInvitation, needleText } from "../src/index.ts";
import { bindDrop } from "./controls/drop.ts";
import { FolderPicker } from "./controls/folder-picker.ts";
import {
  applyUrl,
  bindForm,
  disableControl,
  numberOf,
  readNeedle,
  readPeerRun,
  readRing,
  readRoom,
  readSampling,
  setControl,
  textOf,
} from "./controls/settings.ts";
import { TextPicker } from "./controls/text-picker.ts";
import { byId } from "./dom.ts";
import { formatLength } from "./format.ts";
import { PeersPart } from "./peers/peers-part.ts";
import type { ModelChoice, TextChoice } from "./protocol.ts";
import { Session } from "./session.ts";

const folder = new FolderPicker();
const parameters = new URLSearchParams(location.search);
const session = new Session(
  (kind) => (kind === "run" ? run() : runNeedle()),
  (message) => peers.receive(message),
);
const fileFailed = (error: Error) => session.tell({ name: "FileReadError", message: error.message });
const text = new TextPicker(fileFailed);

/** The model that is chosen, or undefined (and the page says so) where its name or folder is missing. */
function readModel(): ModelChoice | undefined {
  switch (textOf("model")) {
    case "hub": {
      const id = textOf("modelId").trim();
      if (id) return { kind: "hub", id, token: textOf("token").trim() || undefined };
      session.fail({ name: "InputError", message: "no model id is given yet (owner/name, as on huggingface.co)" });
      return undefined;
    }
    case "folder":
      if (!folder.choice) session.fail({ name: "InputError", message: "no model folder is chosen yet" });
      return folder.choice;
    default:
      return { kind: "default", url: new URL("models/default/", document.baseURI).href };
  }
}

function readText(): TextChoice {
  if (textOf("text") === "own") return { kind: "own", ...text.choice };
  return {
    kind: "generated",
    length: numberOf("length"),
    depth: numberOf("depth"),
    seed: Math.round(numberOf("seed")),
  };
}

function run(): void {
  if (session.isBusy) return;
  if (peers.role === "peer") {
    session.fail({ name: "InputError", message: "another peer leads this ring: questions are asked on its page" });
    return;
  }
  const model = readModel();
  if (!model) return;
  session.run({
    model,
    text: readText(),
    question: textOf("question"),
    ring: readRing(),
    sampling: readSampling(),
    peers: peers.isOpen ? readPeerRun() : undefined,
  });
}

function runNeedle(): void {
  if (session.isBusy) return;
  const model = readModel();
  if (model) session.runNeedle({ model, ring: readRing(), ...readNeedle() });
}

/** The words around the question field: what an empty one means, and what this kind of model makes of it. */
function describeQuestion(): void {
  const isOwn = textOf("text") === "own";
  const isDefault = textOf("model") === "default";
  const field = byId<HTMLFormElement>("controls").elements.namedItem("question") as HTMLTextAreaElement;
  const { question } = needleText({ length: 256, depth: 50, seed: Math.round(numberOf("seed")) });
  field.placeholder = isOwn ? "" : `${question.trim().split("\n").at(-1)} …`;
  byId("question-label").textContent = isOwn && isDefault ? "Beginning of a passage" : "Question";
  byId("question-note").textContent = isOwn
    ? isDefault
      ? "Type 20 letters or more just as they stand in your text: the default model goes on from there."
      : "Goes after your text. Chat models get both as one message."
    : "Left empty, the needle is asked for.";
}

/** What the button will do, in one sentence. */
function describeRun(): void {
  if (peers.role === "peer") {
    session.invite("The answer appears here as the ring writes it.");
    return;
  }
  const ranks = peers.isOpen ? peers.rankCount : readRing().worldSize;
  const split =
    ranks === 1
      ? `on one ${peers.isOpen ? "peer" : "rank"}`
      : `split over ${ranks} ${peers.isOpen ? "peers" : "ranks"}`;
  session.invite(
    textOf("text") === "own"
      ? `Your text will be read ${split}, and your question answered from it.`
      : `A lighthouse keeper’s log of ${formatLength(numberOf("length"))} tokens hides one odd line, ${numberOf("depth")}% of the way in. It will be read ${split}, and asked for that line.`,
  );
}

const peers = new PeersPart({
  session,
  readModel,
  room: readRoom(parameters),
  parameters,
  invitation: hasInvitation(location.href) ? location.href : undefined,
  onChange: () => updateForm(),
});
const updateForm = bindForm(() => {
  describeQuestion();
  describeRun();
  // With a ring of peers its ranks are theirs, and blocks stay on the GPUs.
  for (const name of ["worldSize", "blockMemory", "attention"]) if (peers.isOpen) disableControl(name);
  byId<HTMLButtonElement>("needle-run").disabled = peers.isOpen || session.isBusy;
  session.preview(readRing());
});
bindDrop(folder, text, fileFailed);

byId("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
byId("needle-controls").addEventListener("submit", (event) => {
  event.preventDefault();
  runNeedle();
});
byId("more").addEventListener("toggle", (event) => (event.target as HTMLElement).scrollIntoView({ block: "nearest" }));
session.automation.bind(peers, run, () => session.stop());
byId("stop").addEventListener("click", () => session.stop());
addEventListener("keydown", (event) => {
  // In a field Escape belongs to the field: it closes a list, or takes back what an input method has composed.
  const isInField = event.isComposing || (event.target as Element).matches?.("input, select, textarea");
  if (event.key === "Escape" && session.isBusy && !isInField) session.stop();
});
byId("suggest-model").addEventListener("click", () => {
  setControl("modelId", "HuggingFaceTB/SmolLM2-135M-Instruct");
  setControl("model", "hub");
  (byId<HTMLFormElement>("controls").elements.namedItem("modelId") as HTMLInputElement).focus();
});

applyUrl(parameters);
session.hello();
const isOn = (name: string) => parameters.has(name) && parameters.get(name) !== "0";
const wantedPeers = Number(parameters.get("peers") ?? 0);
// What fails here has been shown on the page, and a run that cannot begin has failed.
if (parameters.get("peer") === "auto") peers.join().catch(() => {});
else if (isOn("invite") || wantedPeers > 0)
  peers
    .invite()
    .then(() => peers.peersReady(wantedPeers))
    .then(() => isOn("autorun") && run())
    .catch(() => {});
else if (parameters.get("autorun") === "needle") runNeedle();
else if (isOn("autorun")) run();
