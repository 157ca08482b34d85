/** From what the person chose (a text and a question) to what the model is given. */
import { type Model, needleText, type Prompt } from "../../src/index.ts";
import type { TextChoice } from "../protocol.ts";

/** Something that the person has to fill in first. */
class InputError extends Error {
  override name = "InputError";
}

/** A prompt, and how the page shows it. */
export interface ComposedPrompt {
  prompt: Prompt;
  /** The end of the prompt: what the answer continues. */
  question: string;
  /** The needle, where there is one. */
  expected?: string;
}

/** Tokens that a chat template and the question's wrapping take at most. */
const CHAT_TOKENS = 64;
const SHORTEST_TEXT = 256;

/** What of a model decides how a prompt is put together. */
export type PromptModel = Pick<Model, "tokenize" | "hasChatTemplate">;

/** The generated text whose length in this model's tokens comes close to (and does not pass by much) the one asked for. */
function generateText(model: PromptModel, isByteModel: boolean, choice: Extract<TextChoice, { kind: "generated" }>) {
  const { depth, seed } = choice;
  if (isByteModel) return needleText({ length: choice.length, depth, seed });
  const wanted = Math.max(64, choice.length - (model.hasChatTemplate ? CHAT_TOKENS : 0));
  // The log looks alike everywhere, so a sample tells characters per token; one correction makes it close.
  let length = Math.max(SHORTEST_TEXT, wanted * 2);
  let text = needleText({ length, depth, seed });
  for (let round = 0; round < 2; round++) {
    const tokens = model.tokenize(text.text + text.question, { addBos: false }).length;
    length = Math.max(SHORTEST_TEXT, Math.floor((length * wanted) / tokens));
    text = needleText({ length, depth, seed });
  }
  return text;
}

/**
 * Text and question as this model takes them: run together for a model that continues text, one user message for a chat
 * model. With a generated text and no question of the person's own, the needle is asked for.
 */
export function composePrompt(
  model: PromptModel,
  isByteModel: boolean,
  choice: TextChoice,
  ownQuestion: string,
): ComposedPrompt {
  if (choice.kind === "own") {
    if (!choice.text.trim() && !ownQuestion.trim())
      throw new InputError("there is no text to read yet: paste one, drop a file, or use the generated one");
    return join(model, choice.text, ownQuestion);
  }
  const { text, question, answer } = generateText(model, isByteModel, choice);
  if (ownQuestion.trim()) return join(model, text, ownQuestion);
  const expected = answer.trim().replace(/\.$/, "");
  if (!model.hasChatTemplate) return { prompt: text + question, question: question.trim(), expected };
  const sentence = question.trim().split("\n").at(-1)!;
  return {
    ...join(model, text, `Complete this sentence from the log, with its missing word only: "${sentence} ..."`),
    expected,
  };
}

function join(model: PromptModel, text: string, question: string): ComposedPrompt {
  const between = text === "" || text.endsWith("\n") ? "" : model.hasChatTemplate ? "\n\n" : "\n";
  const whole = text + between + question;
  return { prompt: model.hasChatTemplate ? [{ role: "user", content: whole }] : whole, question };
}
