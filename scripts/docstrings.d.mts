/** See docstrings.mjs. */
export function missingDocstrings(entry: string): string[];
