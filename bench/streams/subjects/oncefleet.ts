import { setTimeout as sleep } from 'node:timers/promises';
import type { StreamWriter as JournalStream } from '../../../src/journal/stream-writer.ts';
import { Runtime } from '../../../src/runtime/runtime.ts';
import type { Place } from '../../lib/databases.ts';
import type { BenchEvent } from '../../lib/events.ts';
import { prepareOncefleet, startJobs, TENANT } from '../../lib/oncefleet.ts';
import type { Subject } from './subject.ts';

const POLL_MS = 5;
const AHEAD = 16;

/** The parts of a worker process and of a web process, with their defaults. */
export const oncefleet: Subject = {
  name: 'oncefleet',
  title: 'Oncefleet',
  template: { name: 'oncefleet', prepare: prepareOncefleet },
  tables: ['oncefleet.journal_segments', 'oncefleet.stream_heads'],
  // More than the buffers hold, so that producers have to wait.
  events: (streams) => (streams === 1 ? 400_000 : 1_200_000),
  async write(place) {
    const { runtime, streams, open } = await openWriter(place);
    return {
      open,
      emit: (streamId, event) => (streams.get(streamId) as JournalStream).emit(event),
      settle: () => runtime.writer.flush(),
      close: () => runtime.close(),
    };
  },
  async read(place) {
    const runtime = openRuntime(place);
    const detach = new AbortController();
    const following: Promise<void>[] = [];
    return {
      async attach(streamIds, onEvent) {
        for (const [stream, streamId] of streamIds.entries()) {
          const follow = async () => {
            const events = runtime.followers.follow({ streamId, tenant: TENANT, after: -1, signal: detach.signal });
            for await (const { seq, event } of events) onEvent(stream, seq, event as BenchEvent);
          };
          following.push(
            follow().catch((error: unknown) => {
              if (!detach.signal.aborted) throw error;
            }),
          );
        }
        while (!streamIds.every((streamId) => runtime.hub.isLive(streamId))) await sleep(POLL_MS);
      },
      async close() {
        detach.abort();
        await Promise.all(following);
        await runtime.close();
      },
    };
  },
};

/** The same, with handlers that want each 16 events durable before they continue. */
export const oncefleet16: Subject = {
  ...oncefleet,
  name: 'oncefleet-16',
  title: 'Oncefleet, flushed every 16 events',
  events: (streams) => (streams === 1 ? 10_000 : streams === 10 ? 60_000 : 400_000),
  async write(place) {
    const { runtime, streams, open } = await openWriter(place);
    return {
      open,
      async emit(streamId, event) {
        const stream = streams.get(streamId) as JournalStream;
        await stream.emit(event);
        if (stream.nextSeq % AHEAD === 0) await stream.flush();
      },
      settle: () => runtime.writer.flush(),
      close: () => runtime.close(),
    };
  },
};

async function openWriter(place: Place) {
  const runtime = openRuntime(place);
  for (;;) {
    const { postgres, redis } = await runtime.health();
    if (postgres === undefined && redis === undefined) break;
    await sleep(POLL_MS);
  }
  const streams = new Map<string, JournalStream>();
  const open = async (count: number) => {
    const ids = await startJobs(runtime, count);
    for (const streamId of ids) {
      streams.set(
        streamId,
        runtime.writer.open({
          streamId,
          fence: 1,
          nextSeq: 0,
          onRefused(error) {
            throw error;
          },
        }),
      );
    }
    return ids;
  };
  return { runtime, streams, open };
}

function openRuntime({ databaseUrl, redisUrl, prefix }: Place): Runtime {
  return new Runtime({ databaseUrl, redisUrl, prefix });
}
