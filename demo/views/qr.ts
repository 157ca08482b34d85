/** A link as a QR code, drawn as one SVG path: sharp at any size, and nothing that a strict content policy forbids. */
import { encode } from "uqr";
import { svg } from "../dom.ts";

/** Modules of quiet zone that scanners want on each side. */
const QUIET = 4;

/** The QR code of a text, black on white in every theme: inverted ones are not read by all phones. */
export function qrCode(text: string, label: string): SVGSVGElement {
  const { size, data } = encode(text, { ecc: "M", border: 0 });
  let path = "";
  for (let y = 0; y < size; y++)
    for (let x = 0; x < size; x++) {
      if (!data[y]![x]) continue;
      let end = x + 1;
      while (end < size && data[y]![end]) end++;
      path += `M${x} ${y}h${end - x}v1h${x - end}z`;
      x = end;
    }
  const whole = size + 2 * QUIET;
  return svg(
    "svg",
    {
      viewBox: `${-QUIET} ${-QUIET} ${whole} ${whole}`,
      role: "img",
      "aria-label": label,
      "shape-rendering": "crispEdges",
    },
    svg("rect", { x: -QUIET, y: -QUIET, width: whole, height: whole, rx: 2, fill: "#fff" }),
    svg("path", { d: path, fill: "#000" }),
  );
}
