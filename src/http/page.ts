/** A page of a job's events as JSON, and the wait for its first one. */
import type { ServerResponse } from 'node:http';
import type { JobClient } from '../client/client.ts';
import type { EventPage } from '../client/types.ts';
import type { Cursor } from '../journal/cursor.ts';
import { isTerminalType, type StreamEvent } from '../journal/event.ts';
import type { ByteBudget, Hold } from './byte-budget.ts';
import type { OpenStreams } from './open-streams.ts';

interface PageSource {
  client: JobClient;
  streams: OpenStreams;
  budget: ByteBudget;
}

interface PageQuery {
  id: string;
  tenant: string;
  after: Cursor;
  limit: number;
  /** How long to wait where there is no event yet. */
  waitMs: number;
  /** The wait ends when it closes. */
  raw: ServerResponse;
  /** Of the request. */
  hold: Hold;
}

export async function readPage(source: PageSource, query: PageQuery): Promise<EventPage> {
  const { id, after, limit, tenant, hold } = query;
  const read = () => source.budget.read(hold, () => source.client.readEvents(id, { tenant, after, limit }));
  const page = await read();
  if (page.events.length > 0 || page.finished || query.waitMs === 0) return page;
  hold.set(0);
  const first = await firstEvent(source, query);
  if (first === undefined) return page;
  const later = await read();
  // The journal may have been cut short meanwhile.
  return later.events.length > 0
    ? later
    : { events: [first], next: first.seq, finished: isTerminalType(first.event.type) };
}

/** The next event, or `undefined` when there was none in time. */
async function firstEvent(
  { client, streams }: Omit<PageSource, 'budget'>,
  { id, after, tenant, waitMs, raw }: PageQuery,
): Promise<StreamEvent | undefined> {
  const waiting = new AbortController();
  const stop = () => waiting.abort();
  const timer = setTimeout(stop, waitMs);
  raw.once('close', stop);
  streams.drainSignal.addEventListener('abort', stop);
  if (streams.draining) stop();
  try {
    for await (const event of client.follow(id, {
      tenant,
      after,
      committed: true,
      throughOutages: false,
      signal: waiting.signal,
    }))
      return event;
    return undefined;
  } catch (error) {
    if (waiting.signal.aborted) return undefined;
    throw error;
  } finally {
    clearTimeout(timer);
    raw.off('close', stop);
    streams.drainSignal.removeEventListener('abort', stop);
  }
}

/** The text is ready: events go out as the journal holds them, unparsed. */
export function formatPage({ events, next, finished }: EventPage): string {
  const items = events.map(({ seq, fence, json }) => `{"seq":${seq},"fence":${fence},"event":${json}}`);
  return `{"events":[${items.join(',')}],"next":${JSON.stringify(next)},"finished":${finished}}`;
}
