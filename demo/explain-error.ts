/** Errors in plain sentences: what happened, and what the person can do. */
import type { EngineError } from "./protocol.ts";

/** What the page says about an error. */
export interface Explanation {
  title: string;
  what: string;
  todo: string;
  /** The button that helps: run the same job again (with a fresh engine), or none. */
  action?: "continue" | "retry";
}

/** Our messages begin with the function that threw ("loadModel: ..."), which is for programmers. */
const withoutFunctionName = (message: string): string => message.replace(/^[A-Za-z]+(\("[^"]*"\))?: /, "");

const sentence = (text: string): string => {
  const trimmed = withoutFunctionName(text).trim();
  // A word gets its capital; a name (owner/model, config.json) stays as it is spelt.
  const capital = trimmed.replace(/^[a-z]+(?=[\s,])/, (word) => word.charAt(0).toUpperCase() + word.slice(1));
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
};

const explanations: Record<string, (message: string) => Explanation> = {
  UnsupportedDeviceError: (message) =>
    /no WebGPU/i.test(message)
      ? {
          title: "This browser has no WebGPU",
          what: "Ringwise computes on the graphics card through WebGPU, and this browser does not offer it here.",
          todo: "Open this page in Chrome or Edge 121 or newer, over https or on localhost. On Linux, turn on chrome://flags/#enable-unsafe-webgpu.",
        }
      : /adapter/i.test(message)
        ? {
            title: "No graphics adapter was found",
            what: "WebGPU is here, but it found no graphics card that it may use.",
            todo: "Turn on hardware acceleration in the browser's settings, or update the graphics driver, then reload this page.",
          }
        : {
            title: "This graphics card lacks something",
            what: sentence(message),
            todo: "Try a smaller model, another attention kind, or a machine with a newer graphics card.",
          },
  DeviceLostError: () => ({
    title: "The graphics card was lost",
    what: "The browser or the driver took the graphics card away (a driver reset, a long sleep, or memory pressure). Your text and settings are still here.",
    todo: "Continue starts a fresh engine and reads the same text again.",
    action: "continue",
  }),
  GpuMemoryError: (message) => ({
    title: "The graphics card is out of memory",
    what: sentence(message),
    todo: "Set block memory to “host” so that K/V blocks stream through the card, shorten the text, or choose a smaller model.",
    action: "retry",
  }),
  UnsupportedModelError: (message) => ({
    title: "This model is not supported",
    what: sentence(message),
    todo: "Nothing was downloaded but its configuration. Llama, Mistral, Qwen2 and Qwen3 models work: HuggingFaceTB/SmolLM2-135M-Instruct is a small one.",
  }),
  ModelFormatError: (message) => ({
    title: "The model’s files are broken or incomplete",
    what: sentence(message),
    todo: "Download the model again, or choose another one. It needs config.json, tokenizer.json and its safetensors files.",
  }),
  ModelSourceError: (message) => ({
    title: "The model could not be fetched",
    what: sentence(message),
    todo: "Check the name (owner/name, as on huggingface.co), the connection, and for a gated model the access token. The default model works offline.",
    action: "retry",
  }),
  ShaderCompileError: (message) => ({
    title: "A GPU program did not compile",
    what: sentence(message),
    todo: "This is a fault in Ringwise or in the browser’s WebGPU. Update the browser; if it stays, report the line above.",
  }),
  OptionError: (message) => ({
    title: "A setting does not fit",
    what: sentence(message),
    todo: "Change that setting and run again.",
  }),
  ShapeError: (message) => ({
    title: "The sizes do not fit together",
    what: sentence(message),
    todo: "Choose another model or another attention kind.",
  }),
  InsecurePageError: (origin) => ({
    title: "WebGPU needs a secure page",
    what: `Browsers offer WebGPU only over https or on localhost, and this page came from ${origin}.`,
    todo: "Open it over https, or on the machine itself as http://localhost.",
  }),
  RoomError: (message) => ({
    title: "The ring could not be entered",
    what: sentence(message),
    todo: "Ask for the link again and open it whole, while the page that made it is still open.",
  }),
  PeerError: (message) => ({
    title: "The ring of peers could not go on",
    what: sentence(message),
    todo: "Your text and settings are still here. Run again with the peers that are left, or leave the ring and run alone.",
  }),
  LinkError: (message) => ({
    title: "The connection to a peer broke",
    what: sentence(message),
    todo: "Run again: the ring goes on with the peers that are left.",
    action: "retry",
  }),
  OutOfRingError: (message) => ({
    title: "This machine is out of the ring",
    what: sentence(message),
    todo: "The ring goes on without it. Whoever leads it can let it in again by a new link.",
  }),
  EngineStartError: (message) => ({
    title: "The engine did not start",
    what: sentence(message),
    todo: "Reload this page. If it stays, the files of the page are incomplete: build or download them again.",
    action: "retry",
  }),
  // No button: trying again would start a run, and it is the file that has to be chosen anew.
  FileReadError: (message) => ({
    title: "That file could not be read",
    what: sentence(message),
    todo: "Choose it again. Files that have changed meanwhile, that the browser may not open, or that are larger than about 500 MB cannot be read; a part of a long text can be pasted.",
  }),
  InputError: (message) => ({
    title: "Something is missing",
    what: sentence(message),
    todo: "Fill it in and run again.",
  }),
};

/** The words for an error, by its class. Unknown ones are shown as they came, never swallowed. */
export function explainError(error: EngineError): Explanation {
  const explain = explanations[error.name];
  if (explain) return explain(error.message);
  return {
    title: "Something went wrong",
    what: `${error.name}: ${error.message}`,
    todo: "Your text and settings are still here. Run again; if it stays, report the line above.",
    action: "retry",
  };
}
