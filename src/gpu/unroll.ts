/**
 * Loops that a kernel wants written out. WGSL has no compile-time loops, and some adapters treat what a constant indexes quite
 * unlike what a variable indexes. `for (var x = 0u; x < BOUND; x++) { // unrolled` becomes BOUND copies of its body, each in
 * braces, with the literal in place of `x`; `var name: array<f32, BOUND>; // unrolled`, which only such loops may index, becomes
 * BOUND variables. The file is valid, and means the same, without it.
 */
import { OptionError } from "../errors.ts";

const LOOP = /for \(var (\w+) = 0u; \1 < (\w+); \1\+\+\) \{ \/\/ unrolled/;
const ARRAY = /var (\w+): array<(\w+(?:<\w+>)?), (\w+)>; \/\/ unrolled/;
/** So many copies that a bound must be a mistake. */
const MOST_COPIES = 4096;
/** Constants that are made of constants that are ..., at most. */
const MOST_DEPTH = 16;

/** The value of a u32 expression of literals, the source's constants, + - * / and parentheses. */
function constantValue(source: string, expression: string, depth = 0): number {
  const tokens = expression.match(/\w+|[-+*/()]|[^\s]/g) ?? [];
  let at = 0;
  const atom = (): number => {
    const token = tokens[at++] ?? "";
    if (token === "(") {
      const inner = sum();
      at++;
      return inner;
    }
    const literal = /^(\d+)u?$/.exec(token);
    if (literal) return Number(literal[1]);
    const text = new RegExp(`^const ${token}\\s*:\\s*u32\\s*=\\s*([^;]+);`, "m").exec(source)?.[1];
    if (!/^\w+$/.test(token) || text === undefined || depth > MOST_DEPTH)
      throw new OptionError(`unroll: expected an expression of u32 constants, got "${expression}" ("${token}")`);
    return constantValue(source, text, depth + 1);
  };
  const product = (): number => {
    let result = atom();
    while (tokens[at] === "*" || tokens[at] === "/")
      result = tokens[at++] === "*" ? result * atom() : Math.floor(result / atom());
    return result;
  };
  const sum = (): number => {
    let result = product();
    while (tokens[at] === "+" || tokens[at] === "-") result += tokens[at++] === "+" ? product() : -product();
    return result;
  };
  const result = sum();
  if (at < tokens.length) throw new OptionError(`unroll: expected an expression of u32 constants, got "${expression}"`);
  return result;
}

/** Index just past the brace that closes the one before `from`. */
function pastClosing(source: string, from: number): number {
  let depth = 1;
  for (let at = from; at < source.length; at++) {
    if (source[at] === "{") depth++;
    else if (source[at] === "}" && --depth === 0) return at + 1;
  }
  throw new OptionError("unroll: the block of what is marked unrolled has no closing brace");
}

function copiesOf(source: string, bound: string): number {
  const copies = constantValue(source, bound);
  if (copies > MOST_COPIES)
    throw new OptionError(`unroll: expected at most ${MOST_COPIES} copies, got ${bound} = ${copies}`);
  return copies;
}

/** The first loop and all inside it. */
function unrollLoops(source: string): string {
  const found = LOOP.exec(source);
  if (!found) return source;
  const [head, variable, bound] = found as unknown as [string, string, string];
  const bodyStart = found.index + head.length;
  const end = pastClosing(source, bodyStart);
  const body = source.slice(bodyStart, end - 1);
  const word = new RegExp(`\\b${variable}\\b`, "g");
  const copies = Array.from({ length: copiesOf(source, bound) }, (_, index) => `{${body.replace(word, `${index}u`)}}`);
  return source.slice(0, found.index) + copies.join("\n") + source.slice(end);
}

function unrollArray(source: string): string {
  const found = ARRAY.exec(source);
  if (!found) return source;
  const [head, name, type, bound] = found as unknown as [string, string, string, string];
  const copies = copiesOf(source, bound);
  const variables = Array.from({ length: copies }, (_, index) => `var ${name}_${index}: ${type};`).join(" ");
  const scopeStart = found.index + head.length;
  const scopeEnd = pastClosing(source, scopeStart);
  const scope = source
    .slice(scopeStart, scopeEnd)
    .replace(new RegExp(`\\b${name}\\[([^\\][]+)\\]`, "g"), (_, expression: string) => {
      const index = constantValue(source, expression);
      if (index >= copies) throw new OptionError(`unroll: expected an index of ${name} below ${copies}, got ${index}`);
      return `${name}_${index}`;
    });
  return source.slice(0, found.index) + variables + scope + source.slice(scopeEnd);
}

/**
 * Writes out every loop and array that is marked `// unrolled`.
 * @throws {OptionError} for a bound or an index that is no constant, or out of range
 */
export function unroll(source: string): string {
  let rest = source;
  for (const step of [unrollLoops, unrollArray])
    for (let before = ""; before !== rest; ) {
      before = rest;
      rest = step(rest);
    }
  return rest;
}
