/** JSON and JSON Lines: each record as lines of `name: value`, under the names that lead to it. */
import type { Block } from '../../blocks.ts';
import type { Parsed, TextFormat } from '../format.ts';

/** Objects below this depth are lines of the record they belong to. */
const MAX_HEADING_LEVEL = 3;
/** A name that is longer is content. */
const MAX_NAME_LENGTH = 100;

export const JSON_TEXT: TextFormat = {
  kind: 'json',
  from: 'text',
  extensions: ['.json', '.geojson', '.webmanifest', '.ipynb'],
  mediaTypes: ['application/json', 'text/json'],
  parse: parseJson,
};

export const JSON_LINES: TextFormat = {
  kind: 'jsonl',
  from: 'text',
  extensions: ['.jsonl', '.ndjson'],
  mediaTypes: ['application/jsonl', 'application/x-ndjson', 'application/ndjson'],
  parse: (text) => parseLines(text) ?? asLines(text),
};

function parseJson(text: string): Parsed {
  try {
    const value: unknown = JSON.parse(text);
    const out = new Records();
    writeValue(out, value, 0);
    return out.end(titleOf(value));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    // With comments, or cut off: its lines can still be found.
    return parseLines(text) ?? asLines(text);
  }
}

/** `undefined`: a line is no JSON. */
function parseLines(text: string): Parsed | undefined {
  const out = new Records();
  try {
    for (const line of text.split('\n')) if (line.trim() !== '') out.record(flatten(JSON.parse(line)));
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
  return out.end(undefined);
}

function asLines(text: string): Parsed {
  const body = text.trimEnd();
  return {
    title: undefined,
    text,
    blocks: body.trim() === '' ? [] : [{ kind: 'lines', text: body, start: 0, end: body.length }],
  };
}

/** Text that is made while it is placed. */
class Records {
  #blocks: Block[] = [];
  #at = 0;

  record(lines: readonly string[]): void {
    this.#push((text) => ({ kind: 'lines', text }), lines.join('\n'));
  }

  heading(level: number, text: string): void {
    this.#push((one) => ({ kind: 'heading', level, text: one }), text);
  }

  end(title: string | undefined): Parsed {
    return { title, text: this.#blocks.map(({ text }) => text).join('\n\n'), blocks: this.#blocks };
  }

  #push(
    make: (text: string) => { kind: 'lines'; text: string } | { kind: 'heading'; level: number; text: string },
    raw: string,
  ): void {
    const text = raw.replaceAll('\0', '').toWellFormed();
    if (text.trim() === '') return;
    this.#blocks.push({ ...make(text), start: this.#at, end: this.#at + text.length });
    this.#at += text.length + 2;
  }
}

function writeValue(out: Records, value: unknown, depth: number): void {
  if (Array.isArray(value)) {
    if (value.some(isObject)) for (const item of value) out.record(flatten(item));
    else out.record(flatten(value));
    return;
  }
  if (!isObject(value)) {
    out.record(flatten(value));
    return;
  }
  const entries = Object.entries(value);
  const opens = ([name, inner]: [string, unknown]): boolean =>
    depth < MAX_HEADING_LEVEL && name.length <= MAX_NAME_LENGTH && name.trim() !== '' && hasRecords(inner);
  out.record(entries.filter((entry) => !opens(entry)).flatMap(([name, inner]) => flatten(inner, name)));
  for (const [name, inner] of entries.filter(opens)) {
    out.heading(depth + 1, name.replace(/\s+/g, ' ').trim());
    writeValue(out, inner, depth + 1);
  }
}

function hasRecords(value: unknown): boolean {
  if (Array.isArray(value)) return value.some(isObject);
  return isObject(value) && Object.keys(value).length > 0;
}

/** `a.b[0]: value`, a line for each value; lists of plain values are one line. */
function flatten(value: unknown, path = ''): string[] {
  const label = path === '' ? '' : `${path}: `;
  if (Array.isArray(value)) {
    if (!value.some((item) => typeof item === 'object' && item !== null))
      return value.length === 0 ? [] : [label + value.map(String).join(', ')];
    return value.flatMap((item, at) => flatten(item, `${path}[${at}]`));
  }
  if (isObject(value))
    return Object.entries(value).flatMap(([name, inner]) => flatten(inner, path === '' ? name : `${path}.${name}`));
  if (value === null || value === '') return [];
  return [label + String(value)];
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function titleOf(value: unknown): string | undefined {
  if (!isObject(value)) return undefined;
  const given = value['title'] ?? value['name'];
  return typeof given === 'string' && given.trim() !== '' ? given.trim().slice(0, 300).toWellFormed() : undefined;
}
