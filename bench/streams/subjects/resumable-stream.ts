import { createResumableStreamContext } from 'resumable-stream/ioredis';
import { Lines } from '../../../scripts/demo/lines.ts';
import { uuidV7 } from '../../../src/util/uuid.ts';
import { connectRedis, type Place } from '../../lib/databases.ts';
import type { BenchEvent } from '../../lib/events.ts';
import type { Subject } from './subject.ts';

/** Vercel's package: texts through Redis pub/sub, kept by the producing process alone. An event is a line. */
export const resumableStream: Subject = {
  name: 'resumable-stream',
  title: 'resumable-stream',
  template: { name: 'empty', prepare: async () => {} },
  tables: [],
  events: () => 0,
  async write(place) {
    const { context, close } = openContext(place);
    const controllers = new Map<string, ReadableStreamDefaultController<string>>();
    return {
      async open(count) {
        const ids = Array.from({ length: count }, () => uuidV7());
        for (const id of ids) {
          const own = await context.createNewResumableStream(
            id,
            () => new ReadableStream<string>({ start: (controller) => void controllers.set(id, controller) }),
          );
          // Its own reader goes away, as the client of the request that started an answer may.
          await own?.cancel();
        }
        return ids;
      },
      async emit(streamId, event) {
        controllers.get(streamId)?.enqueue(`${JSON.stringify(event)}\n`);
      },
      async settle() {},
      async close() {
        close();
      },
    };
  },
  async read(place) {
    const { context, close } = openContext(place);
    return {
      async attach(streamIds, onEvent) {
        for (const [place, id] of streamIds.entries()) {
          const stream = await context.resumeExistingStream(id);
          if (stream === null || stream === undefined) throw new Error(`resumable-stream has no stream ${id}`);
          const read = async () => {
            let seq = 0;
            const lines = new Lines();
            for await (const text of stream) {
              for (const line of lines.push(text)) onEvent(place, seq++, JSON.parse(line) as BenchEvent);
            }
          };
          // It ends with the connection.
          void read().catch(() => {});
        }
      },
      async close() {
        close();
      },
    };
  },
};

function openContext({ redisUrl, prefix }: Place) {
  const publisher = connectRedis(redisUrl);
  const subscriber = connectRedis(redisUrl);
  const context = createResumableStreamContext({ waitUntil: null, keyPrefix: prefix, publisher, subscriber });
  return {
    context,
    close() {
      publisher.disconnect();
      subscriber.disconnect();
    },
  };
}
