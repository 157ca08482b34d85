/** The three DOM helpers that every view uses. */

/** The element with this id. @throws where the page's markup lacks it. */
export function byId<T extends Element = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (!element) throw new Error(`byId: index.html has no element with id "${id}"`);
  return element as unknown as T;
}

/** A new HTML element with attributes and children (strings become text). */
export function html<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Readonly<Record<string, string>> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A new SVG element with attributes and children. */
export function svg<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Readonly<Record<string, string | number>> = {},
  ...children: (Node | string)[]
): SVGElementTagNameMap[K] {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** Whether the person asked for less motion. */
export const isMotionReduced = (): boolean => reducedMotion.matches;

/** A rank's colour: the hue by rank, lightness and chroma by theme (`--rank-lc` in the styles). */
export function rankColor(rank: number, worldSize: number): string {
  // Starting at blue, and never a full circle, so that the last rank is not the first one's twin.
  const hue = (250 + (rank * 330) / Math.max(worldSize, 4)) % 360;
  return `oklch(var(--rank-lc) ${hue.toFixed(1)})`;
}
