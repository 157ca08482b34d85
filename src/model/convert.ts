/** Weights between f32, f16 and bf16, a piece at a time. Rounding is to nearest, ties to even, as the hardware's. */
import { OptionError } from "../errors.ts";
import { BYTES_PER_ELEMENT, type WeightDtype } from "../shape.ts";

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/** The f32 that f16 bits stand for. */
export function f16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** f16 bits of f32 bits. Beyond f16's range: infinity. */
function f32BitsToF16(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  // 65520 and above round to infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    // Normal: the exponent's bias changes from 127 to 15, and 13 bits of fraction are rounded away.
    const odd = (magnitude >>> 13) & 1;
    return sign | ((magnitude - 0x38000000 + 0xfff + odd) >>> 13);
  }
  // Below 2^-25 (or at it: a tie, and 0 is even) nothing is left.
  if (magnitude <= 0x33000000) return sign;
  // Subnormal: steps of 2^-24. Adding 2^-1 in f32 (whose steps are then 2^-24) makes the hardware round.
  scratchBits[0] = magnitude;
  scratch[0] = scratch[0]! + 0.5;
  return sign | (scratchBits[0]! - 0x3f000000);
}

/** bf16 bits of f32 bits. */
function f32BitsToBf16(bits: number): number {
  // A NaN must not round to infinity.
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The bits that f16 has for a number (rounded to f32 first). */
export function numberToF16(value: number): number {
  scratch[0] = value;
  return f32BitsToF16(scratchBits[0]!);
}

/** The bits that bf16 has for a number (rounded to f32 first). */
export function numberToBf16(value: number): number {
  scratch[0] = value;
  return f32BitsToBf16(scratchBits[0]!);
}

/** All 65,536 values of f16 as f32 bits: made once, when first needed. */
let f16Table: Uint32Array | undefined;

function tableOfF16(): Uint32Array {
  if (!f16Table) {
    const values = Float32Array.from({ length: 65_536 }, (_, bits) => f16ToNumber(bits));
    f16Table = new Uint32Array(values.buffer);
  }
  return f16Table;
}

/** The bytes as elements; copied where they do not lie at a multiple of the element's size. */
function elementsOf<T extends Uint16Array | Uint32Array>(
  type: { new (buffer: ArrayBuffer, byteOffset: number, length: number): T; readonly BYTES_PER_ELEMENT: number },
  bytes: Uint8Array<ArrayBuffer>,
): T {
  const isAligned = bytes.byteOffset % type.BYTES_PER_ELEMENT === 0;
  const source = isAligned ? bytes : bytes.slice();
  return new type(source.buffer, source.byteOffset, source.byteLength / type.BYTES_PER_ELEMENT);
}

/**
 * Elements of one type as another. The same type gives the bytes themselves, not a copy.
 * @param where Start of the message, e.g. the tensor's name.
 * @throws {OptionError} for a finite value that f16 cannot hold (above 65504): an infinity would become NaN downstream.
 */
export function convertElements(
  where: string,
  bytes: Uint8Array<ArrayBuffer>,
  from: WeightDtype,
  to: WeightDtype,
): Uint8Array<ArrayBuffer> {
  if (from === to) return bytes;
  const count = bytes.byteLength / BYTES_PER_ELEMENT[from];
  const wide = new Uint32Array(count);
  if (from === "f32") wide.set(elementsOf(Uint32Array, bytes));
  else {
    const narrow = elementsOf(Uint16Array, bytes);
    if (from === "bf16") for (let i = 0; i < count; i++) wide[i] = narrow[i]! << 16;
    else {
      const table = tableOfF16();
      for (let i = 0; i < count; i++) wide[i] = table[narrow[i]!]!;
    }
  }
  if (to === "f32") return new Uint8Array(wide.buffer);
  const result = new Uint16Array(count);
  if (to === "bf16") for (let i = 0; i < count; i++) result[i] = f32BitsToBf16(wide[i]!);
  else
    for (let i = 0; i < count; i++) {
      result[i] = f32BitsToF16(wide[i]!);
      if ((result[i]! & 0x7fff) === 0x7c00 && (wide[i]! & 0x7fffffff) !== 0x7f800000)
        throw new OptionError(
          `${where}: expected weights within f16's range of +-65504, got ${new Float32Array(wide.buffer)[i]}; keep them as bf16 or f32 (weightDtype)`,
        );
    }
  return new Uint8Array(result.buffer);
}
