/** The process of the readers: many sockets, one event loop. */
import { serve } from '../lib/child.ts';
import { Receipts } from '../lib/receipts.ts';
import { SseClient } from '../lib/sse-client.ts';

/** Connections are made so many at a time: a full backlog would make some of them wait for seconds. */
const AT_ONCE = 50;

let clients: SseClient[] = [];
let receipts: Receipts | undefined;

export const commands = {
  /** Opens so many readers, on one stream after the other in turn. Resolves when all have an answer. */
  async connect(order: { port: number; streamIds: readonly string[]; count: number }): Promise<void> {
    const { port, streamIds, count } = order;
    const fresh = new Receipts(count);
    receipts = fresh;
    clients = [];
    while (clients.length < count) {
      const batch = Array.from({ length: Math.min(AT_ONCE, count - clients.length) }, (_, i) => {
        const reader = clients.length + i;
        const client = new SseClient({
          port,
          path: `/v1/jobs/${streamIds[reader % streamIds.length]}/events`,
          onEvent: (seq, _type, data) => fresh.take(reader, seq, timeOf(data)),
        });
        void client.closed.then(() => fresh.fail(new Error(`reader ${reader} was disconnected`)));
        return client;
      });
      clients.push(...batch);
      await Promise.all(batch.map((client) => client.opened));
    }
  },

  /** Resolves when every reader has had so many events. @returns emit to arrival, in milliseconds, of those that have a time */
  received(perStream: number): Promise<number[]> {
    if (receipts === undefined) throw new Error('nobody reads');
    return receipts.until(perStream);
  },

  async disconnect(_: null): Promise<void> {
    for (const client of clients) client.close();
    await Promise.all(clients.map((client) => client.closed));
  },
};

function timeOf(data: string): number | undefined {
  const at = data.indexOf('"at":');
  return at < 0 ? undefined : Number(data.slice(at + '"at":'.length, data.indexOf(',', at)));
}

serve(commands);
