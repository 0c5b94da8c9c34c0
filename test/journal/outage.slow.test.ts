/** Postgres is stopped for half a minute under load. */
import { setTimeout as delay } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { createDb } from '../../src/db/client.ts';
import { migrate } from '../../src/db/migrate.ts';
import { JournalWriter } from '../../src/journal/writer.ts';
import { silentLogger } from '../../src/log.ts';
import { claimFree, insertJob, journalOf } from '../helpers/fixtures.ts';
import { startTestPostgres } from '../helpers/services.ts';

const OUTAGE_MS = 30_000;
const HIGH_WATER_MARK = 200_000;
const STREAMS = 20;

it('Postgres gone for 30 s under load: nothing is lost or reordered, memory stays bounded, streams go on', {
  timeout: 180_000,
}, async () => {
  const own = await startTestPostgres();
  onTestFinished(() => own.stop());
  const db = createDb({
    url: own.postgres.url,
    maxConnections: 5,
    applicationName: 'oncefleet test',
    onError: () => undefined,
  });
  onTestFinished(() => db.close());
  await migrate(db.kysely);
  const published = new Map<string, number>();
  let committed = 0;
  const writer = new JournalWriter({
    db: db.kysely,
    publisher: {
      publish: (announcements) => {
        for (const { batch } of announcements) {
          // Told once each, in order.
          expect(batch.firstSeq).toBe(published.get(batch.streamId) ?? 0);
          published.set(batch.streamId, batch.firstSeq + batch.events.length);
          committed += batch.events.length;
        }
      },
    },
    log: silentLogger(),
    highWaterMark: HIGH_WATER_MARK,
  });
  onTestFinished(() => writer.close({ timeoutMs: 1 }));

  const streams = await Promise.all(
    Array.from({ length: STREAMS }, async () => {
      const id = await insertJob(db.kysely);
      const { fence, nextSeq } = await claimFree(db.kysely, id);
      const refused = (error: Error) => {
        throw error;
      };
      return { id, emitted: 0, stream: writer.open({ streamId: id, fence, nextSeq, onRefused: refused }) };
    }),
  );
  let running = true;
  let longest = 0;
  const producing = Promise.all(
    streams.map(async (producer) => {
      while (running) {
        const event = { type: 'n', i: producer.emitted, pad: 'x'.repeat(500) };
        const length = JSON.stringify(event).length;
        await producer.stream.emit(event);
        producer.emitted++;
        // At the mark each producer that awaits adds no more than the event it waits with.
        longest = Math.max(longest, writer.bufferedLength - STREAMS * length);
        if (producer.emitted % 50 === 0) await delay(1);
      }
    }),
  );
  const total = () => streams.reduce((sum, { emitted }) => sum + emitted, 0);
  await expect.poll(() => committed, { timeout: 20_000 }).toBeGreaterThan(2_000);

  await own.postgres.stop('SIGQUIT');
  await expect.poll(() => writer.bufferedLength, { timeout: 20_000 }).toBeGreaterThan(HIGH_WATER_MARK);
  const held = total();
  const committedBefore = committed;
  await delay(OUTAGE_MS);
  expect(total()).toBe(held);
  expect(committed).toBe(committedBefore);
  await own.postgres.start();

  await expect.poll(total, { timeout: 60_000 }).toBeGreaterThan(held + 2_000);
  running = false;
  await producing;
  await writer.flush();
  expect(longest).toBeLessThanOrEqual(HIGH_WATER_MARK);
  expect(writer.bufferedLength).toBe(0);
  expect(committed).toBe(total());
  for (const { id, emitted } of streams) {
    const journal = await journalOf(db.kysely, id);
    expect(journal.map(({ event }) => event.i)).toEqual(Array.from({ length: emitted }, (_, i) => i));
  }
});
