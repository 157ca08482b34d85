/** IEEE half precision: rounding and encoding, so that the model is computed with the very numbers that are stored. */

const DOUBLE = new DataView(new ArrayBuffer(8));

/**
 * The bits of `value` in half precision, rounded to nearest, ties to even.
 * @throws {RangeError} where `value` is no number, overflows, or stands so near the middle of two halves (1e-9 of their
 * distance) that another machine's last bit could round it the other way; an exact tie is safe and allowed
 */
export function halfBits(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (!(size < 65520)) throw new RangeError(`halfBits: expected a number below 65520 in size, got ${value}`);
  DOUBLE.setFloat64(0, size);
  const exponent = Math.max((DOUBLE.getUint16(0) >> 4) - 1023, -14);
  const steps = size / 2 ** (exponent - 10);
  const fraction = steps - Math.floor(steps);
  if (fraction !== 0.5 && Math.abs(fraction - 0.5) < 1e-9) {
    throw new RangeError(`halfBits: ${value} is too near the middle of two halves to round the same everywhere`);
  }
  const floor = Math.floor(steps);
  const rounded = fraction > 0.5 || (fraction === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
  // A mantissa that rounds up to 2048 carries into the exponent by itself.
  return sign | (rounded + (exponent + 14) * 1024);
}

/** The number that half-precision bits stand for (finite ones). */
export function halfValue(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 1023;
  const size = exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25);
  return bits & 0x8000 ? -size : size;
}

/** `value` rounded to half precision. */
export const toHalf = (value: number): number => halfValue(halfBits(value));
