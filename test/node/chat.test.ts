/** Conversations through chat templates: every place a template may come from, BOS once, refusals with names. */
import { existsSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { openFolder } from "../../src/cli/folder-source.ts";
import { ModelFormatError, OptionError } from "../../src/errors.ts";
import { encodeChat, renderChat } from "../../src/model/chat-template.ts";
import { createTokenizer, loadTokenizer } from "../../src/model/tokenizer.ts";
import type { ChatMessage } from "../../src/model/types.ts";

if (!existsSync(`${__SHARED__}/tokenizers`))
  console.warn(`SKIPPED: some tests need ${__SHARED__}/tokenizers, which is absent`);

const messages: ChatMessage[] = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Hi" },
];

/** Characters as tokens, and three special ones. */
const tokenizerJson = () => ({
  added_tokens: ["<s>", "<|im_start|>", "<|im_end|>"].map((content, index) => ({
    id: 128 + index,
    content,
    special: true,
  })),
  decoder: { type: "Fuse" },
  model: {
    type: "BPE",
    vocab: Object.fromEntries(Array.from({ length: 128 }, (_, code) => [String.fromCharCode(code), code])),
    merges: [],
  },
});

const CHATML =
  "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}" +
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const CHATML_TEXT = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";

describe("where a template comes from", () => {
  test("a string in tokenizer_config.json", async () => {
    const tokenizer = await createTokenizer(tokenizerJson(), { chat_template: CHATML });
    expect(await renderChat(tokenizer.chatTemplate, messages)).toBe(CHATML_TEXT);
  });

  test("the one named default in a list", async () => {
    const list = [
      { name: "tool_use", template: "tools" },
      { name: "default", template: CHATML },
    ];
    const tokenizer = await createTokenizer(tokenizerJson(), { chat_template: list });
    expect(await renderChat(tokenizer.chatTemplate, messages)).toBe(CHATML_TEXT);
    const without = createTokenizer(tokenizerJson(), { chat_template: [list[0], { name: "rag", template: "x" }] });
    await expect(without).rejects.toThrow(ModelFormatError);
  });

  test("chat_template.jinja goes before tokenizer_config.json", async () => {
    const texts: Record<string, string> = {
      "tokenizer.json": JSON.stringify(tokenizerJson()),
      "tokenizer_config.json": JSON.stringify({ chat_template: "old" }),
      "chat_template.jinja": CHATML,
    };
    const bytes = (path: string) => (texts[path] === undefined ? undefined : new TextEncoder().encode(texts[path]));
    const tokenizer = await loadTokenizer({
      name: "memory",
      size: async (path) => bytes(path)?.byteLength,
      read: async (path) => bytes(path)!,
    });
    expect(await renderChat(tokenizer.chatTemplate, messages)).toBe(CHATML_TEXT);
  });

  test.skipIf(!existsSync(`${__SHARED__}/tokenizers/phi3`))("phi3's own", async () => {
    const tokenizer = await loadTokenizer(await openFolder(`${__SHARED__}/tokenizers/phi3`));
    expect(await renderChat(tokenizer.chatTemplate, messages)).toBe(
      "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n",
    );
    const ids = await encodeChat(tokenizer, messages);
    expect(ids[0]).toBe(32_006);
    expect(ids.filter((id) => id === 32_007)).toHaveLength(2);
  });
});

describe("what goes in", () => {
  test("BOS comes from the template, once", async () => {
    const config = { bos_token: { content: "<s>" }, add_bos_token: true, chat_template: `{{ bos_token }}${CHATML}` };
    const tokenizer = await createTokenizer(tokenizerJson(), config);
    const ids = await encodeChat(tokenizer, messages);
    expect(ids.slice(0, 2)).toEqual([128, 129]);
    expect(ids.filter((id) => id === 128)).toHaveLength(1);
    // Someone who encodes the rendered text like any other gets no second one either.
    expect(tokenizer.encode(await renderChat(tokenizer.chatTemplate, messages))).toEqual(ids);
  });

  test("what is no conversation is refused by name", async () => {
    const { chatTemplate } = await createTokenizer(tokenizerJson(), { chat_template: CHATML });
    await expect(renderChat(chatTemplate, [])).rejects.toThrow(
      new OptionError("renderChat: expected at least one message, got []"),
    );
    const robot = [{ role: "robot", content: "" }] as unknown as ChatMessage[];
    await expect(renderChat(chatTemplate, robot)).rejects.toThrow(
      /messages\[0\].role to be system \| user \| assistant, got "robot"/,
    );
    const mute = [{ role: "user", content: 3 }] as unknown as ChatMessage[];
    await expect(renderChat(chatTemplate, mute)).rejects.toThrow(/messages\[0\].content to be text, got 3/);
    await expect(renderChat(undefined, messages)).rejects.toThrow(/expected a chat model/);
  });

  test("a template's own refusal keeps its words; a broken one is the file's fault", async () => {
    const picky = await createTokenizer(tokenizerJson(), { chat_template: "{{ raise_exception('No system role') }}" });
    const refusal = new OptionError("renderChat: the chat template refuses these messages: No system role");
    await expect(renderChat(picky.chatTemplate, messages)).rejects.toThrow(refusal);
    const broken = await createTokenizer(tokenizerJson(), { chat_template: "{% for %}" });
    await expect(renderChat(broken.chatTemplate, messages)).rejects.toThrow(ModelFormatError);
  });
});
