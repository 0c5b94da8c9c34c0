/**
 * A process that follows jobs over server-sent events, cutting its own connections now and
 * then, and records every event it was given. SIGTERM: waits until every reader is done.
 */
import { appendFileSync, closeSync, openSync, readSync } from 'node:fs';
import { StringDecoder } from 'node:string_decoder';
import { setTimeout as delay } from 'node:timers/promises';
import { parseFrames } from '../scripts/demo/event-stream.ts';
import { Lines } from '../scripts/demo/lines.ts';
import { type Entry, type FollowerEntry, line } from './history.ts';
import { Random } from './random.ts';

export interface FollowerOptions {
  origin: string;
  file: string;
  /** Histories of producers: whose jobs to follow. */
  producers: string[];
  seed: number;
}

const LOOK_MS = 150;
const WRITE_MS = 50;
const RETRY_MS = 200;
/** Readers at once; the others wait for their turn. */
const MAX_READERS = 48;
/** Readers that come when all is over, and read from the journal alone. */
const LATE_READERS = 40;
const TERMINAL: ReadonlySet<string> = new Set(['end', 'error', 'cancelled']);

async function main({ origin, file, producers, seed }: FollowerOptions): Promise<void> {
  let stopping = false;
  process.on('SIGTERM', () => {
    stopping = true;
  });
  process.on('SIGINT', () => {});
  const random = new Random(`followers ${seed}`);
  const tails = producers.map((producer) => new Tail(producer));
  const followed = new Set<string>();
  const waiting: string[] = [];
  const readers = new Set<Promise<void>>();
  let buffer = '';
  let readerCount = 0;
  const note = (entry: FollowerEntry) => {
    buffer += line(entry);
  };
  const write = () => {
    const text = buffer;
    buffer = '';
    if (text !== '') appendFileSync(file, text);
  };
  setInterval(write, WRITE_MS);

  async function read(jobId: string, patient: boolean): Promise<void> {
    const reader = `r${readerCount++}`;
    let next = 0;
    for (let connections = 1; ; connections++) {
      const cut = new AbortController();
      const timer = patient || random.chance(0.5) ? undefined : setTimeout(() => cut.abort(), random.int(20, 3_000));
      try {
        const response = await fetch(`${origin}/v1/jobs/${jobId}/events`, {
          headers: { accept: 'text/event-stream', ...(next === 0 ? {} : { 'last-event-id': String(next - 1) }) },
          signal: cut.signal,
        });
        if (response.status === 204) return note({ type: 'finished', reader, jobId, connections });
        if (response.status === 404 || response.status === 400)
          return note({
            type: 'lost',
            reader,
            jobId,
            what: `${response.status} at seq ${next}: ${(await response.text()).slice(0, 200)}`,
          });
        if (response.status === 200 && response.body !== null) {
          for await (const frame of parseFrames(response.body.pipeThrough(new TextDecoderStream()))) {
            if (frame.id === undefined) continue;
            next = Number(frame.id) + 1;
            note({ type: 'seen', reader, jobId, seq: Number(frame.id), json: frame.data });
            if (TERMINAL.has(frame.type)) return note({ type: 'finished', reader, jobId, connections });
          }
        }
      } catch {
        // Cut, by us or by a fault.
      } finally {
        clearTimeout(timer);
        cut.abort();
      }
      await delay(RETRY_MS);
    }
  }

  const fill = () => {
    while (readers.size < MAX_READERS) {
      const jobId = waiting.shift();
      if (jobId === undefined) return;
      const reading = read(jobId, stopping).finally(() => readers.delete(reading));
      readers.add(reading);
    }
  };

  let late = false;
  for (;;) {
    for (const tail of tails) {
      for (const entry of tail.read()) {
        if (entry.type !== 'accepted' || followed.has(entry.id)) continue;
        followed.add(entry.id);
        const count = entry.kind === 'stream' ? 2 : random.chance(0.5) ? 1 : 0;
        for (let i = 0; i < count; i++) waiting.push(entry.id);
      }
    }
    if (stopping && !late) {
      late = true;
      const all = [...followed];
      for (let i = 0; i < LATE_READERS && all.length > 0; i++)
        waiting.push(all[random.int(0, all.length - 1)] as string);
    }
    fill();
    if (stopping && readers.size === 0 && waiting.length === 0) break;
    await delay(LOOK_MS);
  }
  write();
}

/** What is appended to a file, as it comes. */
class Tail {
  readonly #path: string;
  #fd: number | undefined;
  readonly #chunk = Buffer.alloc(1 << 20);
  readonly #decoder = new StringDecoder();
  readonly #lines = new Lines();
  #at = 0;

  constructor(path: string) {
    this.#path = path;
  }

  read(): Entry[] {
    try {
      this.#fd ??= openSync(this.#path, 'r');
    } catch {
      return [];
    }
    const bytes = readSync(this.#fd, this.#chunk, 0, this.#chunk.length, this.#at);
    this.#at += bytes;
    // A read may end inside a character.
    const lines = this.#lines.push(this.#decoder.write(this.#chunk.subarray(0, bytes)));
    return lines.filter((text) => text !== '').map((text) => JSON.parse(text) as Entry);
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
  }
}

await main(JSON.parse(process.argv[2] as string) as FollowerOptions);
process.exit(0);
