/** Event streams of jobs whose events are published before they are committed. */
import { expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { settleJobs } from '../../src/db/jobs/settle.ts';
import { appendBatches } from '../../src/db/streams/segments.ts';
import { createApp } from '../../src/http/app.ts';
import { defineJob } from '../../src/index.ts';
import { silentLogger } from '../../src/log.ts';
import { claimFree, expireLease, insertJob, journalOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { IMMEDIATE } from '../journal/stage.ts';
import { listenLocally } from './requests.ts';
import { RawRequest } from './sse-reader.ts';

const file = useDatabase();
const SSE = { accept: 'text/event-stream' };
const path = (id: string, query = '') => `/v1/jobs/${id}/events${query}`;

async function serve(fleet: ReturnType<typeof createTestFleet>): Promise<number> {
  const config = { tokens: undefined, adminToken: undefined, tenant: 'default', bodyLimitBytes: 1024 };
  const app = createApp({ client: fleet, log: silentLogger(), config });
  const port = await listenLocally(app);
  onTestFinished(() => app.close());
  return port;
}

it('frames carry <fence>-<seq>, before the commit and after it, and a reader comes back with it', async () => {
  const go = Promise.withResolvers<void>();
  const end = Promise.withResolvers<void>();
  const job = defineJob({
    name: 'soon',
    publish: 'immediate',
    input: z.object({}),
    async run(_input, ctx) {
      await go.promise;
      for (let i = 0; i < 3; i++) await ctx.emit({ type: 'n', i });
      await end.promise;
    },
  });
  const fleet = createTestFleet(file.url, [job], { lingerMs: 60_000 });
  await fleet.work();
  const port = await serve(fleet);
  const { id } = await fleet.enqueue(job, {});
  const reader = new RawRequest(port, path(id), SSE);
  await expect.poll(() => reader.body.text).toContain('retry');
  await expect.poll(async () => (await fleet.get(id))?.status).toBe('running');
  go.resolve();
  await expect.poll(() => reader.events.map((frame) => frame.id)).toEqual(['1-0', '1-1', '1-2']);
  expect(await journalOf(file.db, id)).toEqual([]);
  // A page has what is committed, and takes the cursor back as it is.
  const page = await fetch(`http://127.0.0.1:${port}${path(id, '?after=1-1')}`);
  expect(await page.json()).toEqual({ events: [], next: '1-1', finished: false });
  const again = new RawRequest(port, path(id), { ...SSE, 'last-event-id': '1-1' });
  await expect.poll(() => again.body.text).toContain('retry');
  end.resolve();
  await Promise.all([reader.closed(), again.closed()]);
  expect(reader.events.map((frame) => frame.id)).toEqual(['1-0', '1-1', '1-2', '1-3']);
  expect(again.events.map((frame) => frame.id)).toEqual(['1-2', '1-3']);
  const over = await new RawRequest(port, path(id), { ...SSE, 'last-event-id': '1-3' }).closed();
  expect(over.status).toBe(204);
});

it('a reader that comes back with an event that was lost is told to rewind, in a frame without an id', async () => {
  const port = await serve(createTestFleet(file.url, []));
  const id = await insertJob(file.db, IMMEDIATE);
  await claimFree(file.db, id);
  const batch = (firstSeq: number, fence: number, ...types: string[]) => ({
    streamId: id,
    fence,
    firstSeq,
    events: types.map((type) => JSON.stringify({ type })),
  });
  await appendBatches(file.db, [batch(0, 1, 'a', 'b')]);
  await expireLease(file.db, id);
  await claimFree(file.db, id);
  await appendBatches(file.db, [batch(2, 2, 'c')]);
  await settleJobs(file.db, [
    {
      id,
      fence: 2,
      status: 'completed',
      outcome: 'completed',
      result: null,
      error: null,
      resultTtlMs: 60_000,
      delayMs: 0,
      delivery: 0,
      batch: batch(3, 2, 'end'),
    },
  ]);
  const reader = await new RawRequest(port, path(id), { ...SSE, 'last-event-id': '1-7' }).closed();
  expect(reader.events).toEqual([
    { event: 'rewind', data: '{"type":"rewind","from":2}' },
    { id: '2-2', event: 'c', data: '{"type":"c"}' },
    { id: '2-3', event: 'end', data: '{"type":"end"}' },
  ]);
  const page = await fetch(`http://127.0.0.1:${port}${path(id, '?after=1-7&limit=2')}`);
  expect(await page.json()).toMatchObject({
    events: [
      { seq: 1, event: { type: 'rewind', from: 2 } },
      { seq: 2, event: { type: 'c' } },
    ],
    next: 2,
    finished: false,
  });
});
