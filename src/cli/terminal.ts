/**
 * Where a command writes: results to standard output, everything else to standard error.
 * A person at a terminal gets colour and a moving bar; a pipe gets plain lines; `--json`
 * gets JSON and nothing else.
 *
 * It is the one door to both: whatever is written goes through `src/printable.ts` here, so that a
 * command need not know which of its texts come from outside.
 */
import { printable, printableJson } from '../printable.ts';
import { renderLine, type Style, styled } from './styled.ts';

export interface OutputStream {
  write(text: string, done?: (error?: Error | null) => void): boolean;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

interface TerminalOptions {
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
  /** A part of a text of any number of lines to standard output. Resolves, like all of these, once the reader took it. */
  text(text: string): Promise<void>;
  /** One line on standard output, whatever line ends `text` has. */
  line(text: string): Promise<void>;
  lines(lines: readonly string[]): Promise<void>;
  /** One JSON text on a line of standard output. */
  jsonLine(json: string): Promise<void>;
  /** A remark to a person: a line on standard error, nothing under `--json`. */
  note(text: string): void;
  /** Puts `text` in the place of the line of standard error on which the cursor is; nothing under `--json`. */
  redraw(text: string): void;
  /** Leaves the line that was redrawn. */
  endRedraw(): void;
  /** Styled, when standard output takes colour. */
  style(style: Style, text: string): string;
}

const DEFAULT_COLUMNS = 80;

export function createTerminal({ stdout, stderr, json, env }: TerminalOptions): Terminal {
  const dumb = env.TERM === 'dumb';
  const interactive = stdout.isTTY === true && !json;
  // https://no-color.org: present and not empty.
  const colours = interactive && !dumb && (env.NO_COLOR ?? '') === '';
  const lines = (texts: readonly string[]) => write(stdout, texts.map((text) => `${renderLine(text)}\n`).join(''));
  return {
    json,
    interactive,
    redraws: stderr.isTTY === true && !dumb && !json,
    get columns() {
      // A pseudo-terminal that nobody sized has 0.
      return stderr.columns || stdout.columns || DEFAULT_COLUMNS;
    },
    text: (text) => write(stdout, printable(text)),
    line: (text) => lines([text]),
    lines,
    jsonLine: (text) => write(stdout, toJsonLine(text)),
    note(text) {
      if (!json) stderr.write(`${renderLine(text)}\n`);
    },
    redraw(text) {
      if (!json) stderr.write(`\r\x1b[K${renderLine(text)}`);
    },
    endRedraw() {
      if (!json) stderr.write('\n');
    },
    style: (style, text) => (colours ? styled(style, text) : text),
  };
}

/** What is said where there is no terminal of a command: help, and the error that ended it. */
export function say(stream: OutputStream, said: { line: string } | { text: string } | { json: string }): void {
  if ('line' in said) stream.write(`${renderLine(said.line)}\n`);
  else stream.write('text' in said ? printable(said.text) : toJsonLine(said.json));
}

function write(stream: OutputStream, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(text, (error) => (error ? reject(error) : resolve()));
  });
}

/** A line end in JSON stands between its parts, where it means nothing. */
function toJsonLine(json: string): string {
  return `${printableJson(json).replace(/[\n\r]/g, ' ')}\n`;
}

/** `1 job`, `2 jobs`. */
export function counted(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}
