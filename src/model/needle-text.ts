/**
 * The default text: a lighthouse keeper's log of any length with one odd line, the needle, at a chosen depth, and the
 * question that the needle answers. One ASCII character is one byte and one token of the default model, so lengths are exact.
 */
import { OptionError } from "../errors.ts";
import { describeValue, expectInteger } from "../shape.ts";
import { seededRandom } from "./seeded-random.ts";

/** What to write. */
export interface NeedleTextOptions {
  /** Characters (= bytes = tokens of the default model, BOS not counted) of text and question together; at least 256. */
  length: number;
  /** Where the needle's line stands: 0 is the first line of the text, 100 the last. */
  depth: number;
  /** Another seed, another log and another needle. Default 0. */
  seed?: number;
}

/** A long text, a question, and the answer that the text holds. The prompt is `text + question`. */
export interface NeedleText {
  /** The log, with the needle in it; ends with a line break. */
  text: string;
  /** Goes after the text; ends in the middle of a sentence that the answer completes. */
  question: string;
  /** How the sentence goes on in the text, with its leading space and without its line break. */
  answer: string;
  /** The needle's whole line, with its line break. */
  needle: string;
}

const SECRETS = ["password", "passphrase", "watchword", "countersign"];
const OWNERS = [
  "harbour master",
  "lighthouse keeper",
  "night ferry",
  "customs house",
  "old signal tower",
  "north pier",
];
const WORDS = ["heron", "amber", "cobalt", "juniper", "lantern", "marble", "orchid", "saffron", "tundra", "walnut"];

const WINDS = ["north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west"];
const SEAS = ["calm", "smooth", "slight", "moderate", "rough", "very rough", "confused", "glassy"];
const SKIES = ["clear", "hazy", "overcast", "low cloud", "fog banks to seaward", "rain at times", "stars until four"];
const SHIPS = [
  "brig",
  "schooner",
  "collier",
  "trawler",
  "pilot cutter",
  "mail packet",
  "barque",
  "tug with two barges",
];
const BOUND = ["inbound", "outbound", "hove to", "at anchor in the roads", "making for the sound", "under jury rig"];
const CHORES = [
  "trimmed the wick and wound the clockwork",
  "polished the lens and the brass",
  "carried six cans of oil up the stair",
  "tarred the boat and mended the slip",
  "painted the gallery rail",
  "bled the fog signal's air line",
  "copied last week's returns for the inspector",
  "salted two boxes of herring",
  "found the barometer a tenth low and set it",
  "cleared gulls from the gallery",
];

const SHORTEST_LENGTH = 256;

/** One line of the log, ending with a line break, `minutes` after the log's first midnight. */
function logLine(random: () => number, minutes: number): string {
  const pick = (list: readonly string[]) => list[Math.floor(random() * list.length)]!;
  const number = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  const two = (value: number) => String(value).padStart(2, "0");
  const time = `Day ${1 + Math.floor(minutes / 1440)}, ${two(Math.floor(minutes / 60) % 24)}:${two(minutes % 60)}.`;
  switch (number(0, 3)) {
    case 0:
      return `${time} Wind ${pick(WINDS)} force ${number(1, 9)}, sea ${pick(SEAS)}, ${pick(SKIES)}.\n`;
    case 1:
      return `${time} A ${pick(SHIPS)} ${pick(BOUND)}, bearing ${number(0, 359)}, ${number(2, 18)} miles off.\n`;
    case 2:
      return `${time} The keeper ${pick(CHORES)}; oil left ${number(20, 400)} gallons.\n`;
    default:
      return `${time} Glass ${number(28, 30)}.${two(number(0, 99))}, ${pick(SKIES)}; ${pick(CHORES)}.\n`;
  }
}

/** Writes whole log lines and, where none fits any more, a rule of dashes: exactly `length` characters at each call. */
function createLog(random: () => number): (length: number) => string {
  let minutes = 330;
  return (length) => {
    const lines: string[] = [];
    for (let left = length; left > 0; ) {
      let line = logLine(random, minutes);
      minutes += 40 + Math.floor(random() * 200);
      if (line.length > left) line = `${"-".repeat(left - 1)}\n`;
      lines.push(line);
      left -= line.length;
    }
    return lines.join("");
  };
}

/**
 * Writes a log with a needle. Equal options give equal text on every machine.
 * @throws {OptionError} for a length below 256, a depth outside 0..100 or a seed that is no integer of 0..2^32-1
 */
export function needleText({ length, depth, seed = 0 }: NeedleTextOptions): NeedleText {
  expectInteger("needleText", "length", length, SHORTEST_LENGTH);
  expectInteger("needleText", "seed", seed, 0, 4294967295);
  if (!(typeof depth === "number" && depth >= 0 && depth <= 100)) {
    throw new OptionError(`needleText: expected depth to be a number from 0 to 100, got ${describeValue(depth)}`);
  }
  const random = seededRandom(seed);
  const pick = (list: readonly string[]) => list[Math.floor(random() * list.length)]!;
  const stem = `The ${pick(SECRETS)} of the ${pick(OWNERS)} is`;
  const answer = ` ${pick(WORDS)}-${1000 + Math.floor(random() * 9000)}.`;
  const needle = `${stem}${answer}\n`;
  const question = `\nAs the log says:\n${stem}`;
  const logLength = length - needle.length - question.length;
  const before = Math.round((logLength * depth) / 100);
  const log = createLog(random);
  return { text: log(before) + needle + log(logLength - before), question, answer, needle };
}
