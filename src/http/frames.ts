/** Events as frames of a dialect; of a shared one, the frames of a batch are made once for all its readers. */
import type { FollowedBatch } from '../journal/batches.ts';
import { type AttemptEvent, isTerminalType, type StreamEvent, type TerminalEvent } from '../journal/event.ts';
import type { Dialect, Placed } from './dialects/dialect.ts';

/** The frames of a batch. */
export interface Frames {
  readonly text: string;
  /** The text in UTF-8, once a reader has needed it. */
  bytes: Buffer | undefined;
  /** Events in them: fewer than the batch has where one of it is none. */
  readonly count: number;
  /** Of its last event; empty where there is none. */
  readonly lastType: string;
  /** Of a dialect with state: what it is after them. */
  readonly state?: unknown;
}

/** By dialect, then by the source of the batch: two dialects make different bytes of one batch. */
const caches = new WeakMap<object, WeakMap<object, Frames>>();

/** @param dialect a shared one, or what dialects with state have in common */
function cacheOf(dialect: object): WeakMap<object, Frames> {
  let cache = caches.get(dialect);
  if (cache === undefined) {
    cache = new WeakMap();
    caches.set(dialect, cache);
  }
  return cache;
}

/** Takes the whole batch. @param dialect a shared one, or one with state that has something in common with others now */
export function sharedFrames(dialect: Dialect, source: object, batch: FollowedBatch): Frames {
  const cache = cacheOf(dialect.common ?? dialect);
  const made = cache.get(source);
  if (made !== undefined) {
    batch.skip(made.count);
    dialect.load?.(made.state);
    return made;
  }
  let text = '';
  let count = 0;
  let lastType = '';
  for (const event of batch) {
    text += frameOf(dialect, event);
    count++;
    lastType = event.event.type;
  }
  const frames = { text, bytes: undefined, count, lastType, state: dialect.save?.() };
  cache.set(source, frames);
  return frames;
}

export function frameOf(dialect: Dialect, event: StreamEvent): string {
  const { type } = event.event;
  if (type === 'attempt') return dialect.attempt(event as Placed<AttemptEvent>);
  if (type === 'rewind') return dialect.rewind?.(event as Parameters<NonNullable<Dialect['rewind']>>[0]) ?? '';
  return isTerminalType(type) ? dialect.end(event as Placed<TerminalEvent>) : dialect.event(event);
}
