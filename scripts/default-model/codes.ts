/**
 * The two codes of a byte. Only + - * / and Math.sqrt (correctly rounded everywhere) touch them, so they come out the same
 * on every machine.
 */
import { seededRandom } from "../../src/model/seeded-random.ts";
import { toHalf } from "./half.ts";

type Point = [number, number, number];

const distanceSquared = (a: Point, b: Point) => (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2;

function normalize(point: Point): Point {
  const norm = Math.sqrt(point[0] ** 2 + point[1] ** 2 + point[2] ** 2);
  return [point[0] / norm, point[1] / norm, point[2] / norm];
}

/**
 * `count` points spread over the unit sphere: random ones (Marsaglia 1972: reject outside of the ball, then normalise)
 * that push each other away with a force that falls with the sixth power of the distance.
 */
function spreadPoints(count: number, seed: number): Point[] {
  const random = seededRandom(seed);
  const points: Point[] = [];
  while (points.length < count) {
    const point: Point = [2 * random() - 1, 2 * random() - 1, 2 * random() - 1];
    const squared = point[0] ** 2 + point[1] ** 2 + point[2] ** 2;
    if (squared > 0.01 && squared <= 1) points.push(normalize(point));
  }
  const ROUNDS = 600;
  for (let round = 0; round < ROUNDS; round++) {
    // Points move at most this far per round: a fifth of their mean distance at first, ever less later.
    const longest = (0.2 * Math.sqrt((4 * Math.PI) / count) * (ROUNDS - round)) / ROUNDS;
    const moved = points.map((point, index): Point => {
      const force: Point = [0, 0, 0];
      for (let other = 0; other < count; other++) {
        if (other === index) continue;
        const from = points[other]!;
        const squared = distanceSquared(point, from) + 1e-9;
        const weight = 1 / (squared * squared * squared * squared);
        for (let axis = 0; axis < 3; axis++) force[axis]! += weight * (point[axis]! - from[axis]!);
      }
      // The part along the point itself does not move it on the sphere.
      const radial = force[0] * point[0] + force[1] * point[1] + force[2] * point[2];
      for (let axis = 0; axis < 3; axis++) force[axis]! -= radial * point[axis]!;
      const size = Math.sqrt(force[0] ** 2 + force[1] ** 2 + force[2] ** 2) + 1e-30;
      const step = longest / size;
      return normalize([point[0] + step * force[0], point[1] + step * force[1], point[2] + step * force[2]]);
    });
    for (let index = 0; index < count; index++) points[index] = moved[index]!;
  }
  return points;
}

/** Orders points so that every beginning of the list is well spread (farthest-point traversal, Gonzalez 1985). */
function farthestFirst(points: Point[]): Point[] {
  const nearest = points.map((point) => distanceSquared(point, points[0]!));
  const ordered = [points[0]!];
  while (ordered.length < points.length) {
    let best = 0;
    for (let index = 1; index < points.length; index++) if (nearest[index]! > nearest[best]!) best = index;
    const chosen = points[best]!;
    ordered.push(chosen);
    points.forEach((point, index) => {
      nearest[index] = Math.min(nearest[index]!, distanceSquared(point, chosen));
    });
  }
  return ordered;
}

/**
 * A vector of halves near `point` whose squared length is 1 within 5e-5: equal lengths are what makes an exact match win.
 * The point is nudged, a twentieth of the gap to its neighbours at most, until its rounded self has that length.
 */
function roundToUnitHalves(point: Point, random: () => number): Point {
  for (;;) {
    const nudged = point.map((value) => value + 0.012 * (random() - 0.5)) as Point;
    const [x, y, z] = normalize(nudged).map(toHalf) as Point;
    if (Math.abs(x * x + y * y + z * z - 1) < 5e-5) return [x, y, z];
  }
}

/** Bytes by how often text needs to tell them apart; those of the text come first and get the wider gaps. */
function bytesByImportance(): number[] {
  const common =
    " etaoinshrdlcumwfgypbvkjxqz0123456789.,-\nETAOINSHRDLCUMWFGYPBVKJXQZ'\":;!?()[]{}<>/\\_#*=+@&%$|~^`\t\r";
  const bytes = [...common].map((letter) => letter.charCodeAt(0));
  for (let byte = 255; byte >= 0; byte--) if (byte >= 0x80 && !bytes.includes(byte)) bytes.push(byte);
  for (let byte = 0; byte < 128; byte++) if (!bytes.includes(byte)) bytes.push(byte);
  return bytes;
}

/** Match codes `[256][3]`: unit vectors in half precision, spread over the sphere, bytes of plain text farthest apart. */
export function matchCodes(): Point[] {
  const ordered = farthestFirst(spreadPoints(256, 0x51ed));
  const random = seededRandom(0x4a1f);
  const codes: Point[] = [];
  bytesByImportance().forEach((byte, rank) => {
    codes[byte] = roundToUnitHalves(ordered[rank]!, random);
  });
  return codes;
}

/** How many bits of a 32-bit number are set. */
function countBits(bits: number): number {
  let count = 0;
  for (let left = bits; left !== 0; left &= left - 1) count++;
  return count;
}

/**
 * Copy codes `[count][64]` of signs (+1 or -1), any two at a cosine of at most 1/4 in size (they agree in 24 to 40 of the 64
 * places). Random ones; those too near an earlier one, or its opposite, are drawn again.
 */
export function copyCodes(count: number): number[][] {
  const random = seededRandom(0xc0de);
  const draw = () => (random() * 4294967296) | 0;
  const codes: [number, number][] = [];
  while (codes.length < count) {
    const [low, high] = [draw(), draw()];
    const isFar = codes.every(([otherLow, otherHigh]) => {
      const different = countBits(low ^ otherLow) + countBits(high ^ otherHigh);
      return different >= 24 && different <= 40;
    });
    if (isFar) codes.push([low, high]);
  }
  return codes.map((halves) =>
    Array.from({ length: 64 }, (_, index) => ((halves[index >> 5]! >> (index & 31)) & 1 ? 1 : -1)),
  );
}
