/** Rewinds of an `immediate` stream's readers, whose events a crash may have lost. */
import type { Kysely } from 'kysely';
import type { Database } from '../db/schema.ts';
import { findFork, type StreamState } from '../db/streams/segments.ts';
import { cursorAt } from './cursor.ts';
import type { StreamEvent, SystemEvent } from './event.ts';
import { expired } from './stored-events.ts';
import type { Tail } from './tail.ts';

/**
 * The seq from which the journal does not have what the reader has; undefined when it has all.
 *
 * @throws OncefleetError STREAM_EXPIRED retention may have removed the place where they part
 */
export async function findRewind(db: Kysely<Database>, tail: Tail, state: StreamState): Promise<number | undefined> {
  if (tail.fence === undefined) return undefined;
  if (state.fence > tail.fence) {
    const fork = (await findFork(db, state.streamId, tail.fence)) ?? state.nextSeq;
    // The first event that is left is a later owner's: so may some have been that are gone.
    const intact = tail.delivered && state.keptFrom === tail.keptFrom;
    if (state.keptFrom > 0 && fork <= state.keptFrom && !intact)
      throw expired(state.streamId, tail.next, state.keptFrom);
    return fork < tail.next ? fork : undefined;
  }
  // Nobody took over, but the run ended without these: its last event stands where the first of them would.
  const overtaken = tail.delivered ? tail.next >= state.nextSeq : tail.next > state.nextSeq;
  return state.closed && overtaken ? state.nextSeq - 1 : undefined;
}

/** What tells a reader to drop its events from a seq on. It is not in the journal. */
export function rewindTo(from: number, { fence, immediate }: StreamState): StreamEvent {
  const event: SystemEvent = { type: 'rewind', from };
  const cursor = from === 0 ? -1 : cursorAt(from - 1, fence, immediate);
  return { seq: from - 1, fence, cursor, event, json: JSON.stringify(event) };
}
