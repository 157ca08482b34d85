/** What goes to which stream: results to standard output, everything else to standard error. */

/** Where a command writes. */
export interface Terminal {
  /** One line of progress on standard error; the next one replaces it on a terminal. */
  progress(message: string): void;
  /** A line on standard error that stays. */
  log(message: string): void;
  /** Text on standard output as it comes; nothing with `--json`. */
  write(text: string): void;
  /** The result: a JSON document with `--json`, else the text for people. */
  result(document: unknown, text: string): void;
}

/** The terminal of a command; with `isJson` standard output carries one JSON document and nothing else. */
export function openTerminal(isJson: boolean): Terminal {
  const isTty = process.stderr.isTTY === true;
  let isOverwriting = false;
  const settle = () => {
    if (isOverwriting) process.stderr.write("\n");
    isOverwriting = false;
  };
  return {
    progress(message) {
      if (!isTty) {
        process.stderr.write(`${message}\n`);
        return;
      }
      // Cut to the terminal's width: a wrapped line cannot be overwritten.
      process.stderr.write(`\r\u001b[2K${message.slice(0, (process.stderr.columns ?? 80) - 1)}`);
      isOverwriting = true;
    },
    log(message) {
      settle();
      process.stderr.write(`${message}\n`);
    },
    write(text) {
      if (isJson) return;
      settle();
      process.stdout.write(text);
    },
    result(document, text) {
      settle();
      process.stdout.write(isJson ? `${JSON.stringify(document, null, 2)}\n` : text && `${text.trimEnd()}\n`);
    },
  };
}

/** Bytes for people: "12.3 MiB". */
export function formatBytes(byteLength: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = byteLength;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** Rows as a plain text table: the first row is the header, columns of numbers are set right. */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const columnCount = Math.max(...rows.map((row) => row.length));
  const widths = Array.from({ length: columnCount }, (_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? "").length)),
  );
  const isNumeric = widths.map((_, column) =>
    rows.slice(1).every((row) => row[column] === undefined || /^([-+]?[\d.]|-?$)/.test(row[column])),
  );
  return rows
    .map((row) =>
      widths
        .map((width, column) =>
          isNumeric[column] ? (row[column] ?? "").padStart(width) : (row[column] ?? "").padEnd(width),
        )
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
