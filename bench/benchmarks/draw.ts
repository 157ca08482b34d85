/** Draws a plot as SVG. Vega is no part of the library: it is imported when a report is written. */
import type { Plot, Theme } from "./plot-specs.ts";

/** The plot as an SVG file's text. @throws {Error} where Vega is not installed, or refuses the specification. */
export async function drawSvg(plot: Plot, theme: Theme): Promise<string> {
  const [vega, { compile }] = await Promise.all([import("vega"), import("vega-lite")]).catch((error: Error) => {
    throw new Error(
      `drawSvg: the plots need the packages vega and vega-lite ("npm install"): ${error.message.split("\n")[0]}`,
    );
  });
  const { spec } = compile(plot.spec(theme));
  const view = new vega.View(vega.parse(spec), { renderer: "none", logLevel: vega.Error });
  try {
    return `${await view.toSVG()}\n`;
  } finally {
    view.finalize();
  }
}
