/** Half-precision numbers as 16-bit patterns; Float16Array is not in every runtime that runs the tests. */

const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);

/** The nearest half (ties to even) of a number, as its bit pattern. */
export function encodeF16(value: number): number {
  float[0] = value;
  const sign = (bits[0]! >>> 16) & 0x8000;
  const magnitude = Math.abs(float[0]!);
  if (Number.isNaN(magnitude)) return sign | 0x7e00;
  if (magnitude >= 65520) return sign | 0x7c00;
  const exponent = Math.max(-14, Math.floor(Math.log2(magnitude || 2 ** -30)));
  const step = 2 ** (exponent - 10);
  const quotient = magnitude / step;
  let whole = Math.floor(quotient);
  const rest = quotient - whole;
  if (rest > 0.5 || (rest === 0.5 && whole % 2 === 1)) whole++;
  const rounded = whole * step;
  if (rounded < 2 ** -14) return sign | Math.round(rounded * 2 ** 24);
  const power = Math.floor(Math.log2(rounded));
  return sign | ((power + 15) << 10) | Math.round((rounded / 2 ** power - 1) * 1024);
}

/** The number that a half's bit pattern stands for. */
export function decodeF16(pattern: number): number {
  const sign = pattern & 0x8000 ? -1 : 1;
  const exponent = (pattern >> 10) & 31;
  const fraction = pattern & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}
