/**
 * The algorithm that the journal grew out of: DocsGPT's BatchedJournalWriter, where each
 * stream has a buffer, each event is published before the next one is taken, and a buffer is
 * inserted when it holds 16 events or an event comes 100 ms after the last insert.
 *
 * Kinder to it than the original: one prepared statement and round trip a flush, where that
 * one begins, inserts and commits.
 *
 * @see https://github.com/arc53/DocsGPT/blob/main/application/streaming/message_journal.py
 */
import pg from 'pg';
import { execute } from '../../../src/testing/services/databases.ts';
import { uuidV7 } from '../../../src/util/uuid.ts';
import { connectRedis } from '../../lib/databases.ts';
import type { BenchEvent } from '../../lib/events.ts';
import type { OnEvent, Subject } from './subject.ts';

const TABLE = 'message_events';
const BATCH_SIZE = 16;
const BATCH_INTERVAL_MS = 100;
const CONNECTIONS = 10;

interface Entry {
  seq: number;
  type: string;
  payload: BenchEvent;
}

interface Buffered {
  nextSeq: number;
  entries: Entry[];
  lastFlushAt: number;
}

export const origin: Subject = {
  name: 'origin',
  title: 'origin: 16 events or 100 ms',
  template: {
    name: 'origin',
    async prepare(databaseUrl) {
      await execute(
        databaseUrl,
        `create table ${TABLE} (
          message_id uuid not null,
          sequence_no integer not null,
          event_type text not null,
          payload jsonb not null,
          created_at timestamptz not null default now(),
          primary key (message_id, sequence_no)
        )`,
      );
    },
  },
  tables: [TABLE],
  events: (streams) => (streams === 1 ? 10_000 : 60_000),
  async write({ databaseUrl, redisUrl, prefix }) {
    const pool = new pg.Pool({ connectionString: databaseUrl, max: CONNECTIONS });
    const redis = connectRedis(redisUrl);
    const streams = new Map<string, Buffered>();

    const flush = async (streamId: string, stream: Buffered) => {
      const { entries } = stream;
      stream.entries = [];
      stream.lastFlushAt = performance.now();
      if (entries.length === 0) return;
      await pool.query({
        name: 'insert',
        text: `insert into ${TABLE} (message_id, sequence_no, event_type, payload)
          select $1, n.seq, n.type, n.payload from unnest($2::int[], $3::text[], $4::jsonb[]) as n (seq, type, payload)`,
        values: [
          streamId,
          entries.map(({ seq }) => seq),
          entries.map(({ type }) => type),
          entries.map(({ payload }) => JSON.stringify(payload)),
        ],
      });
    };

    return {
      async open(count) {
        const ids = Array.from({ length: count }, () => uuidV7());
        for (const id of ids) streams.set(id, { nextSeq: 0, entries: [], lastFlushAt: performance.now() });
        return ids;
      },
      async emit(streamId, event) {
        const stream = streams.get(streamId) as Buffered;
        const entry = { seq: stream.nextSeq++, type: event.type, payload: event };
        stream.entries.push(entry);
        await redis.publish(channelOf(prefix, streamId), JSON.stringify({ message_id: streamId, ...entry }));
        if (stream.entries.length >= BATCH_SIZE || performance.now() - stream.lastFlushAt >= BATCH_INTERVAL_MS)
          await flush(streamId, stream);
      },
      async settle() {
        await Promise.all([...streams].map(([streamId, stream]) => flush(streamId, stream)));
      },
      async close() {
        redis.disconnect();
        await pool.end();
      },
    };
  },
  async read({ redisUrl, prefix }) {
    const redis = connectRedis(redisUrl);
    const places = new Map<string, number>();
    let take: OnEvent = () => {};
    redis.on('message', (channel: string, text: string) => {
      const { seq, payload } = JSON.parse(text) as Entry;
      take(places.get(channel) as number, seq, payload);
    });
    return {
      async attach(streamIds, onEvent) {
        take = onEvent;
        places.clear();
        for (const [place, streamId] of streamIds.entries()) places.set(channelOf(prefix, streamId), place);
        await redis.subscribe(...places.keys());
      },
      async close() {
        redis.disconnect();
      },
    };
  },
};

function channelOf(prefix: string, streamId: string): string {
  return `${prefix}:channel:${streamId}`;
}
