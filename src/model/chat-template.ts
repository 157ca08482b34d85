/** Conversations as a chat model expects them: the tokenizer's own template, rendered by `@huggingface/jinja`. */
import { ModelFormatError, OptionError } from "../errors.ts";
import { describeValue } from "../shape.ts";
import type { ChatTemplate, Tokenizer } from "./tokenizer.ts";
import type { ChatMessage } from "./types.ts";

const ROLES: readonly string[] = ["system", "user", "assistant"] satisfies ChatMessage["role"][];

/** Checks what a caller gives as a conversation. @throws {OptionError} */
function checkMessages(messages: readonly ChatMessage[]): void {
  if (!Array.isArray(messages) || messages.length === 0)
    throw new OptionError(`renderChat: expected at least one message, got ${describeValue(messages)}`);
  messages.forEach((message, index) => {
    if (!ROLES.includes(message?.role))
      throw new OptionError(
        `renderChat: expected messages[${index}].role to be ${ROLES.join(" | ")}, got ${describeValue(message?.role)}`,
      );
    if (typeof message.content !== "string")
      throw new OptionError(
        `renderChat: expected messages[${index}].content to be text, got ${describeValue(message.content)}`,
      );
  });
}

/**
 * The text of a conversation, up to where the model's answer begins. The template writes BOS itself where there is to be one:
 * encode the text with `addBos: false`, or use {@link encodeChat}.
 * @param chat A tokenizer's `chatTemplate`.
 * @throws {OptionError} for messages that are none, or that the template refuses (with the template's own words).
 * @throws {ModelFormatError} for a template that is no Jinja.
 */
export async function renderChat(chat: ChatTemplate | undefined, messages: readonly ChatMessage[]): Promise<string> {
  checkMessages(messages);
  if (!chat)
    throw new OptionError("renderChat: expected a chat model, got one without a chat template: give it plain text");
  const { Template } = await import("@huggingface/jinja");
  let template: InstanceType<typeof Template>;
  try {
    template = new Template(chat.template);
  } catch (cause) {
    throw new ModelFormatError(`chat_template: expected a Jinja template, got "${(cause as Error).message}"`, {
      cause,
    });
  }
  try {
    return template.render({
      ...chat.specialTokens,
      bos_token: chat.bosToken,
      eos_token: chat.eosToken,
      messages: messages.map(({ role, content }) => ({ role, content })),
      add_generation_prompt: true,
    });
  } catch (cause) {
    // Templates raise exceptions of their own for conversations that they do not like (roles that do not alternate, say).
    throw new OptionError(`renderChat: the chat template refuses these messages: ${(cause as Error).message}`, {
      cause,
    });
  }
}

/** A conversation's ids, with BOS once where the template has it. @throws as {@link renderChat} */
export async function encodeChat(tokenizer: Tokenizer, messages: readonly ChatMessage[]): Promise<number[]> {
  return tokenizer.encode(await renderChat(tokenizer.chatTemplate, messages), { addBos: false });
}
