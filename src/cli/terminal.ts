/**
 * Where a command writes: results to standard output, everything else to standard error.
 * A person at a terminal gets colour and a moving bar; a pipe gets plain lines; `--json`
 * gets JSON and nothing else.
 */

export interface OutputStream {
  write(text: string, done?: (error?: Error | null) => void): boolean;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

export interface TerminalOptions {
  stdout: OutputStream;
  stderr: OutputStream;
  /** One JSON document or JSON lines on standard output, no notes. */
  json: boolean;
  env: Readonly<Record<string, string | undefined>>;
}

export interface Terminal {
  readonly json: boolean;
  /** Standard output is a terminal, and not one that JSON was asked for. */
  readonly interactive: boolean;
  /** Standard error can move its cursor: progress may redraw its line. */
  readonly redraws: boolean;
  readonly columns: number;
  /** Writes to standard output as it is; resolves once the reader took it. */
  write(text: string): Promise<void>;
  /** A line on standard output. */
  line(text: string): Promise<void>;
  /** One JSON text on a line of standard output. */
  jsonLine(json: string): Promise<void>;
  /** A remark to a person: a line on standard error, nothing under `--json`. */
  note(text: string): void;
  /** Raw standard error, for progress; nothing under `--json`. */
  progress(text: string): void;
  /** Styled for standard output, when it takes colour. */
  style(style: Style, text: string): string;
}

export type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow';

const SGR: Record<Style, [number, number]> = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
};

const DEFAULT_COLUMNS = 80;

export function createTerminal({ stdout, stderr, json, env }: TerminalOptions): Terminal {
  const dumb = env.TERM === 'dumb';
  const interactive = stdout.isTTY === true && !json;
  // https://no-color.org: present and not empty.
  const colours = interactive && !dumb && (env.NO_COLOR ?? '') === '';
  const write = (text: string) =>
    new Promise<void>((resolve, reject) => {
      stdout.write(text, (error) => (error ? reject(error) : resolve()));
    });
  return {
    json,
    interactive,
    redraws: stderr.isTTY === true && !dumb && !json,
    get columns() {
      // A pseudo-terminal that nobody sized has 0.
      return stderr.columns || stdout.columns || DEFAULT_COLUMNS;
    },
    write,
    line: (text) => write(`${text}\n`),
    jsonLine: (text) => write(`${text}\n`),
    note(text) {
      if (!json) stderr.write(`${text}\n`);
    },
    progress(text) {
      if (!json) stderr.write(text);
    },
    style(style, text) {
      if (!colours) return text;
      const [on, off] = SGR[style];
      return `\x1b[${on}m${text}\x1b[${off}m`;
    },
  };
}

/**
 * Text of documents, models and users, made safe to print: a control character could move
 * the cursor, retitle the window or forge lines. Tabs and line ends stay.
 */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is to be removed.
  return text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, '');
}

/** The same, on one line and no longer than `limit` characters. */
export function printableLine(text: string, limit = Number.POSITIVE_INFINITY): string {
  const line = printable(text).replace(/[\t\n\u2028\u2029]+/g, ' ');
  return line.length > limit ? `${line.slice(0, Math.max(0, limit - 1))}…` : line;
}

/** JSON of an event or input for a person: also the control characters that JSON leaves bare are escaped. */
export function printableJson(json: string): string {
  return json.replace(/[\x7f-\x9f\u2028\u2029]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** `1 job`, `2 jobs`. */
export function counted(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** Columns are not cut below this, or their heading if that is longer. */
const MIN_CUT_WIDTH = 8;

/**
 * Rows under their headings, columns as wide as their widest cell.
 *
 * @param fit the table gets no wider than `columns`, as far as cutting the cells of the columns `cut` can do it;
 *   the widest of them is cut first
 */
export function formatTable(
  headings: readonly string[],
  rows: readonly (readonly string[])[],
  fit?: { columns: number; cut: readonly string[] },
): string {
  const widths = headings.map((heading, i) => Math.max(heading.length, ...rows.map((row) => (row[i] ?? '').length)));
  if (fit !== undefined) cutWidths(headings, widths, fit);
  const format = (cells: readonly string[]) =>
    cells
      .map((cell, i) => printableLine(cell, widths[i]).padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd();
  return [format(headings), ...rows.map(format)].join('\n');
}

function cutWidths(
  headings: readonly string[],
  widths: number[],
  { columns, cut }: { columns: number; cut: readonly string[] },
): void {
  const floors = headings.map((heading) =>
    cut.includes(heading) ? Math.max(MIN_CUT_WIDTH, heading.length) : Infinity,
  );
  const roomIn = (i: number) => (widths[i] ?? 0) - (floors[i] ?? 0);
  let excess = widths.reduce((sum, width) => sum + width, 2 * (widths.length - 1)) - columns;
  for (; excess > 0; excess--) {
    const cuttable = widths
      .keys()
      .filter((i) => roomIn(i) > 0)
      .toArray();
    const widest = cuttable.toSorted((a, b) => (widths[b] ?? 0) - (widths[a] ?? 0))[0];
    if (widest === undefined) return;
    widths[widest] = (widths[widest] ?? 0) - 1;
  }
}
