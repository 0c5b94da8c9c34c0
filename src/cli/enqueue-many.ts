/** `enqueue --jsonl`: a job a line, read and enqueued as it comes. */
import { createReadStream } from 'node:fs';
import { resolve } from 'node:path';
import type { BulkItem, EnqueueManyResult } from '../client/types.ts';
import { refuseInfinite } from '../enqueue/json-numbers.ts';
import { OncefleetError } from '../errors.ts';
import { printable } from '../printable.ts';
import type { Fleet } from '../workers/fleet.ts';
import type { CliContext } from './context.ts';
import { Progress } from './progress.ts';
import { listenForInterrupt } from './signals.ts';
import type { Terminal } from './terminal.ts';
import { decodeText, describeFileError } from './text.ts';

/** Lines that are enqueued together, and their bytes. */
const CHUNK_LINES = 500;
const CHUNK_BYTES = 4 * 1024 * 1024;

/** One line; more is no job but a file without line ends. */
const MAX_LINE_BYTES = 64 * 1024 * 1024;

const LF = 10;

interface Line {
  /** From 1. */
  number: number;
  bytes: Buffer;
}

/** @throws OncefleetError FILE_UNREADABLE; INPUT_INVALID some lines were refused, and each was named */
export async function enqueueLines(
  fleet: Fleet,
  name: string,
  { file, context, terminal }: { file: string; context: CliContext; terminal: Terminal },
): Promise<void> {
  using interrupt = listenForInterrupt();
  const progress = new Progress(terminal, name);
  const counts = { created: 0, attached: 0, replayed: 0, conflict: 0, invalid: 0, error: 0 };
  let done = 0;
  const send = async (lines: readonly Line[]) => {
    interrupt.signal.throwIfAborted();
    const results = await enqueueChunk(fleet, name, lines);
    for (const { number, outcome, id, status, error } of results) {
      counts[outcome]++;
      if (terminal.json)
        await terminal.jsonLine(
          JSON.stringify({ line: number, outcome, ...(error === undefined ? { id, status } : { error }) }),
        );
      else if (error !== undefined) progress.note(printable(`Line ${number}: ${error.code}: ${error.message}`));
    }
    done += lines.length;
    progress.update({ done });
  };
  let lines: Line[] = [];
  let bytes = 0;
  for await (const line of readLines(
    file === '-' ? context.stdin : createReadStream(resolve(context.cwd, file)),
    file,
  )) {
    if (lines.length === CHUNK_LINES || (lines.length > 0 && bytes + line.bytes.length > CHUNK_BYTES)) {
      await send(lines);
      [lines, bytes] = [[], 0];
    }
    lines.push(line);
    bytes += line.bytes.length;
  }
  if (lines.length > 0) await send(lines);
  progress.finish();
  const refused = counts.conflict + counts.invalid + counts.error;
  const text = Object.entries(counts)
    .filter(([, count]) => count > 0)
    .map(([outcome, count]) => `${count} ${outcome}`);
  if (!terminal.json) await terminal.line(text.join(', ') || 'No line to enqueue');
  if (refused === 0) return;
  const code = counts.invalid > 0 ? 'INPUT_INVALID' : counts.conflict > 0 ? 'KEY_MISMATCH' : 'STORE_UNAVAILABLE';
  throw new OncefleetError(code, `${refused} of ${done} lines were not enqueued; the others were`, { details: counts });
}

interface Enqueued {
  number: number;
  outcome: keyof EnqueueManyResult['counts'];
  id?: string;
  status?: string;
  error?: { code: string; message: string };
}

/** A line that is no JSON is as little in the way of the others as one that is no input. */
async function enqueueChunk(fleet: Fleet, name: string, lines: readonly Line[]): Promise<Enqueued[]> {
  const enqueued: Enqueued[] = [];
  const items: { number: number; item: BulkItem }[] = [];
  for (const { number, bytes } of lines) {
    try {
      items.push({ number, item: parseLine(bytes) });
    } catch (error) {
      const { code, message } = error as OncefleetError;
      enqueued.push({ number, outcome: 'invalid', error: { code, message } });
    }
  }
  const { outcomes } = await fleet.enqueueMany(
    name,
    items.map(({ item }) => item),
  );
  for (const one of outcomes) {
    const number = items[one.index]?.number ?? 0;
    if ('error' in one) {
      const { code, message } = one.error;
      enqueued.push({ number, outcome: one.outcome, error: { code, message } });
    } else enqueued.push({ number, outcome: one.outcome, id: one.id, status: one.status });
  }
  return enqueued.sort((a, b) => a.number - b.number);
}

/** @throws OncefleetError INPUT_INVALID */
function parseLine(bytes: Buffer): BulkItem {
  const decoded = decodeText(bytes);
  if ('problem' in decoded) throw new OncefleetError('INPUT_INVALID', `the line ${decoded.problem}`);
  let value: unknown;
  try {
    value = JSON.parse(decoded.text);
  } catch (error) {
    throw new OncefleetError('INPUT_INVALID', `the line is not valid JSON: ${(error as Error).message.slice(0, 200)}`);
  }
  refuseInfinite('The line', decoded.text, value);
  return value as BulkItem;
}

/** Lines that are not blank. @throws OncefleetError FILE_UNREADABLE */
async function* readLines(source: AsyncIterable<Uint8Array>, file: string): AsyncGenerator<Line> {
  const parts: Buffer[] = [];
  let length = 0;
  let number = 0;
  const take = (): Line | undefined => {
    number++;
    const bytes = Buffer.concat(parts.splice(0));
    length = 0;
    return bytes.toString('latin1').trim() === '' ? undefined : { number, bytes };
  };
  try {
    for await (const chunk of source) {
      const bytes = Buffer.from(chunk);
      let from = 0;
      for (let at = bytes.indexOf(LF); at >= 0; at = bytes.indexOf(LF, from)) {
        parts.push(bytes.subarray(from, at));
        from = at + 1;
        const line = take();
        if (line !== undefined) yield line;
      }
      parts.push(bytes.subarray(from));
      length += bytes.length - from;
      if (length > MAX_LINE_BYTES)
        throw new OncefleetError(
          'FILE_UNREADABLE',
          `${file}: line ${number + 1} is longer than ${MAX_LINE_BYTES} bytes`,
        );
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).syscall === undefined) throw error;
    throw new OncefleetError('FILE_UNREADABLE', `${file} ${describeFileError(error)}`, { details: { path: file } });
  }
  const line = take();
  if (line !== undefined) yield line;
}
