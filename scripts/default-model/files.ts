/** The four files of the default model as bytes, the same at every run and on every machine. */
import { BOS_ID, EOS_ID, MAX_POSITIONS, modelConfig } from "./design.ts";
import { halfBits } from "./half.ts";
import { buildTensors, type Tensor } from "./weights.ts";

const encodeText = (text: string) => new TextEncoder().encode(text);
const encodeJson = (value: unknown) => encodeText(`${JSON.stringify(value, null, 2)}\n`);

/** Safetensors: header length (u64), JSON header padded with spaces to a multiple of 8, the tensors' bytes; all F16. */
function encodeSafetensors(tensors: readonly Tensor[]): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  let end = 0;
  for (const { name, shape, data } of tensors) {
    header[name] = { dtype: "F16", shape, data_offsets: [end, end + data.length * 2] };
    end += data.length * 2;
  }
  const json = JSON.stringify(header);
  const headerBytes = encodeText(json.padEnd(Math.ceil(json.length / 8) * 8, " "));
  const file = new Uint8Array(8 + headerBytes.length + end);
  const view = new DataView(file.buffer);
  view.setUint32(0, headerBytes.length, true);
  file.set(headerBytes, 8);
  let offset = 8 + headerBytes.length;
  for (const { data } of tensors) {
    for (const value of data) {
      view.setUint16(offset, halfBits(value), true);
      offset += 2;
    }
  }
  return file;
}

/**
 * The letter that stands for each byte in a byte-level vocabulary (Radford et al. 2019, GPT-2): printable Latin-1 letters
 * stand for themselves, the others are moved to 256 and up.
 */
function byteLetters(): string[] {
  let moved = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return String.fromCharCode(isPrintable ? byte : moved++);
  });
}

/** A byte-level BPE without merges: one byte, one token, and its id is the byte. */
function tokenizer() {
  const special = (id: number, content: string) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  const letters = byteLetters();
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [special(BOS_ID, "<s>"), special(EOS_ID, "</s>")],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: true },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [
        { SpecialToken: { id: "<s>", type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { Sequence: { id: "B", type_id: 0 } },
      ],
      special_tokens: { "<s>": { id: "<s>", ids: [BOS_ID], tokens: ["<s>"] } },
    },
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(letters.map((letter, byte) => [letter, byte])),
      merges: [],
    },
  };
}

const tokenizerConfig = () => ({
  tokenizer_class: "PreTrainedTokenizerFast",
  bos_token: "<s>",
  eos_token: "</s>",
  add_bos_token: true,
  add_eos_token: false,
  clean_up_tokenization_spaces: false,
  model_max_length: MAX_POSITIONS,
});

/** File name -> bytes of everything in models/default/. */
export function buildModelFiles(): Map<string, Uint8Array> {
  return new Map([
    ["config.json", encodeJson(modelConfig())],
    ["model.safetensors", encodeSafetensors(buildTensors())],
    ["tokenizer.json", encodeJson(tokenizer())],
    ["tokenizer_config.json", encodeJson(tokenizerConfig())],
  ]);
}
