/** The events that stream benches write: 60 bytes of JSON, as a delta of a streamed answer. */
import { readFileSync } from 'node:fs';

export interface BenchEvent {
  type: 'delta';
  text: string;
  /** When it was emitted, in milliseconds on the shared clock. */
  at?: number;
  [field: string]: unknown;
}

const EVENT_BYTES = 60;
const TEXT_LENGTH = EVENT_BYTES - '{"type":"delta","text":""}'.length;

const PROSE = [
  'README.md',
  'docs/guides/idempotency.md',
  'docs/guides/streaming.md',
  'docs/reference/cli.md',
  'docs/reference/http.md',
];

/** This project's own documentation in pieces: text that compresses as prose does. */
const texts = PROSE.flatMap((file) => {
  const prose = readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')
    .replace(/[^\x20-\x7e]|["\\]/g, ' ')
    .replace(/\s+/g, ' ');
  return Array.from({ length: Math.floor(prose.length / TEXT_LENGTH) }, (_, i) =>
    prose.slice(i * TEXT_LENGTH, (i + 1) * TEXT_LENGTH),
  );
});

/** The event for place `n`; with a time, the text is shorter by as much. */
export function eventOf(n: number, at?: number): BenchEvent {
  const text = texts[n % texts.length] as string;
  if (at === undefined) return { type: 'delta', text };
  const time = Math.round(at * 1_000) / 1_000;
  return { type: 'delta', at: time, text: text.slice(`,"at":${time}`.length) };
}
