/** Reading option values: each parser says what it expected and what came, and commander makes that exit code 2. */
import { InvalidArgumentError } from "commander";

/** A parser of integers within `[min, max]`. */
export const integer =
  (min: number, max = Number.MAX_SAFE_INTEGER) =>
  (text: string): number => {
    const value = Number(text);
    if (/^[+-]?\d+$/.test(text) && value >= min && value <= max) return value;
    const range = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
    throw new InvalidArgumentError(`Expected an integer ${range}, got "${text}".`);
  };

/** A parser of numbers within `[min, max]`; `min` itself is refused with `isOpen`. */
export const number =
  (min: number, max = Number.POSITIVE_INFINITY, isOpen = false) =>
  (text: string): number => {
    const value = Number(text);
    if (text.trim() !== "" && Number.isFinite(value) && value >= min && value <= max && !(isOpen && value === min))
      return value;
    const range = max === Number.POSITIVE_INFINITY ? `of at least ${min}` : `from ${min} to ${max}`;
    throw new InvalidArgumentError(`Expected a number ${range}, got "${text}".`);
  };

/** "1,2,3" as token ids. */
export function tokenIds(text: string): number[] {
  const parts = text.split(",").map((part) => part.trim());
  if (parts.length > 0 && parts.every((part) => /^\d+$/.test(part) && Number.isSafeInteger(Number(part))))
    return parts.map(Number);
  throw new InvalidArgumentError(`Expected token ids as 1,2,3, got "${text}".`);
}
