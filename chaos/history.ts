/**
 * What the runs of a chaos test say they saw, line by line in append-only files of their own:
 * the checker trusts these and the final state of Postgres, and nothing the system under test
 * says of itself.
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs';

/** What became of a job that a producer asked for. */
export type Kind = 'effect' | 'ledger' | 'stream' | 'block' | 'throw' | 'refuse' | 'hang' | 'poison';

/** `at` is the monotonic clock of the machine in ms, the same in all processes. */
export type Entry = { at: number; pid: number } & (ProducerEntry | HandlerEntry | FollowerEntry | NemesisEntry);

export type ProducerEntry =
  /** The API took it. */
  | { type: 'accepted'; key: string; kind: Kind; id: string; outcome: string; input: unknown }
  /** A finished job as the API shows it. */
  | { type: 'outcome'; key: string; id: string; status: string; result: string; error: string | null }
  /** The API said something that no fault explains. */
  | { type: 'odd'; key: string; what: string };

export type HandlerEntry =
  | { type: 'start'; jobId: string; key: string; kind: Kind; fence: number }
  /** An effect was committed, says the transaction. */
  | { type: 'effect'; jobId: string; key: string; fence: number; step: number }
  /** So many events of this attempt are committed, says `flush`. */
  | { type: 'flushed'; jobId: string; fence: number; events: number }
  /** A write was refused. */
  | { type: 'refused'; jobId: string; fence: number; what: string; code: string; why: string }
  | { type: 'returned'; jobId: string; fence: number };

export type FollowerEntry =
  | { type: 'seen'; reader: string; jobId: string; seq: number; json: string }
  /** The terminal event was read, or the API said that there is nothing more. */
  | { type: 'finished'; reader: string; jobId: string; connections: number }
  | { type: 'lost'; reader: string; jobId: string; what: string };

export type NemesisEntry =
  | { type: 'fault'; fault: string; target: string; pid?: number; forMs?: number }
  | { type: 'healed'; fault: string; target: string };

/** ms of the monotonic clock, which all processes of the machine share and no skew touches. */
function monotonicMs(): number {
  return Number(process.hrtime.bigint() / 1_000n) / 1_000;
}

/** Appends at once: the process may be killed at the next instruction. */
export function record(file: string, entry: ProducerEntry | HandlerEntry | FollowerEntry | NemesisEntry): void {
  appendFileSync(file, line(entry));
}

export function line(entry: ProducerEntry | HandlerEntry | FollowerEntry | NemesisEntry): string {
  return `${JSON.stringify({ at: monotonicMs(), pid: process.pid, ...entry })}\n`;
}

/** Every whole line; a process that was killed may leave a torn one behind. */
export function readHistory(file: string): Entry[] {
  if (!existsSync(file)) return [];
  const entries: Entry[] = [];
  for (const text of readFileSync(file, 'utf8').split('\n')) {
    if (text === '') continue;
    try {
      entries.push(JSON.parse(text) as Entry);
    } catch {
      // Torn.
    }
  }
  return entries;
}
