/** The events of a stream that are committed, as Postgres holds them. */
import type { Kysely } from 'kysely';
import type { Database } from '../db/schema.ts';
import { findSegments, type Segment, type StreamState, segmentEvents } from '../db/streams/segments.ts';
import { rowTerminalJson } from '../db/streams/terminal.ts';
import { OncefleetError } from '../errors.ts';
import { cursorAt } from './cursor.ts';
import type { JobEvent, StreamEvent } from './event.ts';

/** Segments read at once; a folded one may hold thousands of events. */
export const PAGE_SEGMENTS = 32;

/** Events from a seq to the head, a segment at a time. @throws OncefleetError STREAM_EXPIRED */
export async function* readStored(
  db: Kysely<Database>,
  state: StreamState,
  from: number,
  pageSegments: number = PAGE_SEGMENTS,
): AsyncGenerator<Iterable<StreamEvent>, void, undefined> {
  if (from >= state.nextSeq) return;
  if (from < state.keptFrom) throw expired(state.streamId, from, state.keptFrom);
  const { immediate } = state;
  if (state.rowTerminal !== undefined) {
    const json = rowTerminalJson(state.rowTerminal);
    const cursor = cursorAt(0, state.fence, immediate);
    yield [{ seq: 0, fence: state.fence, cursor, event: JSON.parse(json) as JobEvent, json }];
    return;
  }
  let next = from;
  while (next < state.nextSeq) {
    const segments = await findSegments(db, state.streamId, next, pageSegments);
    // Retention has removed them since the head was read.
    if (segments.length === 0) throw expired(state.streamId, next, state.nextSeq);
    for (const segment of segments) {
      if (segment.firstSeq > next)
        throw new Error(`Journal gap in stream ${state.streamId}: wanted seq ${next}, found ${segment.firstSeq}`);
      yield eventsOf(segment, next, immediate);
      next = segment.lastSeq + 1;
    }
  }
}

/** A segment's events from a seq on, made as they are asked for. */
function* eventsOf(segment: Segment, from: number, immediate: boolean): Generator<StreamEvent, void, undefined> {
  const { fence, firstSeq } = segment;
  const texts = segmentEvents(segment);
  for (let i = from - firstSeq; i < texts.length; i++) {
    const json = texts[i] as string;
    const seq = firstSeq + i;
    yield { seq, fence, cursor: cursorAt(seq, fence, immediate), event: JSON.parse(json) as JobEvent, json };
  }
}

export function expired(streamId: string, seq: number, keptFrom: number): OncefleetError {
  return new OncefleetError('STREAM_EXPIRED', `Stream ${streamId} no longer has events before seq ${keptFrom}`, {
    details: { seq, keptFrom },
  });
}
