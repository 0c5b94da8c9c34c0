/** The `[input]` of `enqueue`: JSON as it stands, `@file`, or `-` for standard input. */

import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { refuseInfinite } from '../enqueue/json-numbers.ts';
import { OncefleetError } from '../errors.ts';
import { decodeText, describeFileError } from './text.ts';

/**
 * @returns the parsed value; `{}` when no input was given
 * @throws OncefleetError FILE_UNREADABLE, FILE_EMPTY, INPUT_INVALID
 */
export async function readInput(
  argument: string | undefined,
  { cwd, stdin }: { cwd: string; stdin: AsyncIterable<Uint8Array> },
): Promise<unknown> {
  if (argument === undefined) return {};
  if (argument === '-') return parse(decode(await readAll(stdin), 'Standard input'), 'Standard input');
  if (!argument.startsWith('@')) return parse(argument, 'The input');
  const file = argument.slice(1);
  let bytes: Uint8Array;
  try {
    bytes = await readFile(resolve(cwd, file));
  } catch (error) {
    throw new OncefleetError('FILE_UNREADABLE', `${file} ${describeFileError(error)}`, { details: { path: file } });
  }
  return parse(decode(bytes, file), file);
}

function decode(bytes: Uint8Array, what: string): string {
  const decoded = decodeText(bytes);
  if ('problem' in decoded) throw new OncefleetError('FILE_UNREADABLE', `${what} ${decoded.problem}`);
  return decoded.text;
}

function parse(text: string, what: string): unknown {
  if (text.trim() === '') throw new OncefleetError('INPUT_INVALID', `${what} is empty: expected JSON`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new OncefleetError('INPUT_INVALID', `${what} is not valid JSON: ${(error as Error).message}`);
  }
  refuseInfinite(what, text, value);
  return value;
}

async function readAll(stream: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}
