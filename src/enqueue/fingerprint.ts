import { createHash } from 'node:crypto';
import { InputInvalidError, OncefleetError } from '../errors.ts';

export const MAX_KEY_BYTES = 255;

/** As deep as an event may be: the input goes into the same kind of column. */
const MAX_DEPTH = 1_000;

/**
 * SHA-256 (hex) of the canonical JSON of an input.
 *
 * Key order, number forms (1.0 and 1, -0 and 0) and Unicode normalisation do not matter;
 * fields that are `undefined` are dropped, as JSON.stringify drops them.
 *
 * @throws InputInvalidError the input is not JSON
 */
export function fingerprint(input: unknown): string {
  return createHash('sha256').update(canonicalJson(input)).digest('hex');
}

/** JSON text with sorted keys and NFC strings. Lone surrogates stay, as escapes. */
export function canonicalJson(input: unknown): string {
  return write(toJsonValue(input), '', 0);
}

/**
 * The JSON text of an input as the row keeps it.
 *
 * @throws InputInvalidError
 */
export function inputJson(input: unknown): string {
  return JSON.stringify(toJsonValue(input));
}

/** @throws OncefleetError KEY_INVALID */
export function checkKey(key: string): void {
  if (typeof key !== 'string') throw new OncefleetError('KEY_INVALID', `key: expected a string, got ${typeof key}`);
  const bytes = Buffer.byteLength(key);
  if (bytes === 0 || bytes > MAX_KEY_BYTES) {
    throw new OncefleetError('KEY_INVALID', `key: expected 1 to ${MAX_KEY_BYTES} bytes, got ${bytes}`, {
      details: { bytes },
    });
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
  if (/[\u0000-\u001f\u007f-\u009f]/.test(key) || !key.isWellFormed()) {
    throw new OncefleetError('KEY_INVALID', 'key: control characters and lone surrogates are not allowed');
  }
}

function toJsonValue(input: unknown): unknown {
  if (input === undefined) return null;
  let text: string | undefined;
  try {
    text = JSON.stringify(input);
  } catch (cause) {
    throw new InputInvalidError('Input', [{ path: '', message: `is not JSON: ${(cause as Error).message}` }]);
  }
  if (text === undefined) throw new InputInvalidError('Input', [{ path: '', message: 'is not JSON' }]);
  return JSON.parse(text);
}

function write(value: unknown, path: string, depth: number): string {
  if (depth > MAX_DEPTH)
    throw new InputInvalidError('Input', [
      { path: path.slice(0, 60), message: `is nested deeper than ${MAX_DEPTH} levels` },
    ]);
  if (typeof value === 'string') return JSON.stringify(value.normalize('NFC'));
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((item, i) => write(item, `${path}[${i}]`, depth + 1)).join(',')}]`;
  const fields = Object.entries(value).map(([key, item]) => [key.normalize('NFC'), item] as const);
  fields.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return `{${fields.map(([key, item]) => `${JSON.stringify(key)}:${write(item, path === '' ? key : `${path}.${key}`, depth + 1)}`).join(',')}}`;
}
