/** Summaries of repeated timings: the median, because one slow repeat must not move it, and the spread beside it. */

/** What is kept of a series of repeats. */
export interface Summary {
  median: number;
  min: number;
  /** Distance of the quartiles as a share of the median: 0.02 is a quiet machine. */
  spread: number;
  samples: number[];
}

/** The value below which a share `q` of the samples lies, linear between neighbours. Samples may be unsorted. */
export function quantile(samples: readonly number[], q: number): number {
  if (samples.length === 0) throw new RangeError("quantile: expected at least one sample, got none");
  const sorted = [...samples].sort((a, b) => a - b);
  const place = (sorted.length - 1) * q;
  const below = sorted[Math.floor(place)]!;
  return below + (sorted[Math.ceil(place)]! - below) * (place - Math.floor(place));
}

/** Median, minimum and spread of a series. @throws {RangeError} for an empty series. */
export function summarize(samples: readonly number[]): Summary {
  const median = quantile(samples, 0.5);
  const spread = median === 0 ? 0 : (quantile(samples, 0.75) - quantile(samples, 0.25)) / median;
  return { median, min: Math.min(...samples), spread, samples: [...samples] };
}
