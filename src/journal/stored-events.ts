/** The events of a stream that are committed, as Postgres holds them. */
import type { Kysely } from 'kysely';
import type { Database } from '../db/schema.ts';
import { findRowResult, findSegments, type Segment, type StreamState, segmentEvents } from '../db/streams/segments.ts';
import { rowTerminalJson } from '../db/streams/terminal.ts';
import { OncefleetError } from '../errors.ts';
import type { Turns } from '../util/turns.ts';
import { cursorAt } from './cursor.ts';
import type { JobEvent, StreamEvent } from './event.ts';

/** Segments read at once; a folded one may hold thousands of events. */
export const PAGE_SEGMENTS = 32;

interface ReadOptions {
  /** Segments read at once. */
  pageSegments?: number | undefined;
  /** A read, and the time until what it brought is taken, is a turn. */
  turns?: Pick<Turns, 'take'> | undefined;
  /** Ends the wait for a turn. */
  signal?: AbortSignal | undefined;
}

/** Events from a seq to the head, a segment at a time. @throws OncefleetError STREAM_EXPIRED; the signal's reason */
export async function* readStored(
  db: Kysely<Database>,
  state: StreamState,
  from: number,
  options: ReadOptions = {},
): AsyncGenerator<Iterable<StreamEvent>, void, undefined> {
  if (from >= state.nextSeq) return;
  requireKept(state, from);
  for (let next = from; next < state.nextSeq; ) {
    const endTurn = await options.turns?.take(options.signal);
    try {
      if (state.rowTerminal !== undefined) {
        const event = await readRowTerminal(db, state, state.rowTerminal);
        if (event !== undefined) {
          endTurn?.brought?.(event.json.length);
          yield [event];
        }
        return;
      }
      const segments = await findSegments(db, state.streamId, next, options.pageSegments ?? PAGE_SEGMENTS);
      // Retention has removed them since the head was read.
      if (segments.length === 0) throw expired(state.streamId, next, state.nextSeq);
      endTurn?.brought?.(segments.reduce((sum, { events }) => sum + events.length, 0));
      // Taken off the list: what a reader has had shall not be held while it reads nothing.
      for (let segment = segments.shift(); segment !== undefined; segment = segments.shift()) {
        if (segment.firstSeq > next)
          throw new Error(`Journal gap in stream ${state.streamId}: wanted seq ${next}, found ${segment.firstSeq}`);
        // A segment may begin earlier: the stream was folded since the last read.
        const first = next;
        next = segment.lastSeq + 1;
        yield eventsOf(segment, first, state.immediate);
      }
    } finally {
      endTurn?.();
    }
  }
}

/** @throws OncefleetError STREAM_EXPIRED events from a seq on are there no more */
export function requireKept(state: StreamState, from: number): void {
  if (from < Math.min(state.nextSeq, state.keptFrom)) throw expired(state.streamId, from, state.keptFrom);
}

/** The event that an eventless job's stream consists of; `undefined`: the job was redriven meanwhile. */
async function readRowTerminal(
  db: Kysely<Database>,
  { streamId, fence, immediate }: StreamState,
  ending: NonNullable<StreamState['rowTerminal']>,
): Promise<StreamEvent | undefined> {
  const row = ending.resultLeftOut ? await findRowResult(db, streamId) : ending;
  if (row === undefined) return undefined;
  const json = rowTerminalJson({ ...ending, result: row.result });
  return { seq: 0, fence, cursor: cursorAt(0, fence, immediate), event: JSON.parse(json) as JobEvent, json };
}

/** A segment's events from a seq on, made as they are asked for. */
function* eventsOf(segment: Segment, from: number, immediate: boolean): Generator<StreamEvent, void, undefined> {
  const { fence, firstSeq } = segment;
  const texts = segmentEvents(segment);
  for (let i = from - firstSeq; i < texts.length; i++) {
    const json = texts[i] as string;
    texts[i] = '';
    const seq = firstSeq + i;
    yield { seq, fence, cursor: cursorAt(seq, fence, immediate), event: JSON.parse(json) as JobEvent, json };
  }
}

export function expired(streamId: string, seq: number, keptFrom: number): OncefleetError {
  return new OncefleetError('STREAM_EXPIRED', `Stream ${streamId} no longer has events before seq ${keptFrom}`, {
    details: { seq, keptFrom },
  });
}
