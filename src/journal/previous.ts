/** What an attempt finds in its stream: events of earlier attempts that readers still have. */
import type { Kysely } from 'kysely';
import type { Database } from '../db/schema.ts';
import { findAttemptEvents, findSegments, segmentEvents } from '../db/streams/segments.ts';
import { type AttemptEvent, isFleetType, type JobEvent } from './event.ts';
import { supersededFrom } from './superseded.ts';

/** Segments in memory at once. */
const PAGE_SEGMENTS = 4;

/**
 * Reads a stream below an attempt's own event, without what that or an earlier attempt
 * superseded and without what the fleet wrote itself (`progress` is the handler's).
 */
export async function* readPrevious<E extends JobEvent = JobEvent>(
  db: Kysely<Database>,
  streamId: string,
  start: AttemptEvent & { seq: number },
): AsyncGenerator<E, void, undefined> {
  if (start.seq === 0) return;
  const earlier = (await findAttemptEvents(db, streamId, start.seq)).map(({ seq, json }) => ({
    ...(JSON.parse(json) as AttemptEvent),
    seq,
  }));
  const dropped = [...earlier, start].map((event) => ({ from: supersededFrom(event, event.seq), below: event.seq }));
  let next = 0;
  while (next < start.seq) {
    const segments = await findSegments(db, streamId, next, PAGE_SEGMENTS);
    if (segments.length === 0) return;
    for (const segment of segments) {
      for (const [i, text] of segmentEvents(segment).entries()) {
        const seq = segment.firstSeq + i;
        if (seq < next || seq >= start.seq || dropped.some(({ from, below }) => seq >= from && seq < below)) continue;
        const event = JSON.parse(text) as E;
        if (!isFleetType(event.type)) yield event;
      }
      next = segment.lastSeq + 1;
    }
  }
}
