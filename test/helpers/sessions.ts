import pg from 'pg';
import { expect, onTestFinished } from 'vitest';
import { z } from 'zod';
import { createBuiltinJobs, defineJob, loadConfig } from '../../src/index.ts';
import { execute } from '../../src/testing/services/databases.ts';
import { createTestFleet } from './fleet.ts';
import { testRedisUrl } from './services.ts';

/** Sets a setting for the sessions to come of a database, until the test ends. @param value as in SQL */
export async function setForDatabase(url: string, setting: string, value: string): Promise<void> {
  const name = new URL(url).pathname.slice(1);
  // On another database: one that is read-only takes no ALTER.
  const server = new URL(url);
  server.pathname = '/postgres';
  await execute(server.href, `alter database "${name}" set ${setting} = ${value}`);
  onTestFinished(async () => {
    await execute(server.href, `alter database "${name}" reset all`);
  });
}

/** A URL whose sessions start with settings, as PGOPTIONS would have it. */
export function withOptions(url: string, options: Readonly<Record<string, string>>): string {
  const changed = new URL(url);
  const text = Object.entries(options).map(([name, value]) => `-c ${name}=${value.replaceAll(' ', '\\ ')}`);
  changed.searchParams.set('options', text.join(' '));
  return changed.href;
}

const job = defineJob({
  name: 'odd',
  input: z.object({ n: z.number() }),
  attempts: 2,
  backoff: { type: 'fixed', delayMs: 120 },
  async run({ n }, ctx) {
    await ctx.emit({ type: 'n', n });
    await ctx.checkpoint({ n });
    if (n === 1 && ctx.attempt === 1) throw new Error('once more');
    if (n === 2)
      return new Promise((_, reject) => ctx.signal.addEventListener('abort', () => reject(ctx.signal.reason)));
    await ctx.transaction((trx) => ctx.complete(trx, n));
  },
});

/** Everything that reads or writes a time, a number or bytes: enqueue, run, retry, get, find, cancel, events, doctor, `tx`. */
export async function exerciseFleet(url: string): Promise<void> {
  const builtin = createBuiltinJobs(loadConfig({ DATABASE_URL: url, REDIS_URL: testRedisUrl() }));
  const fleet = createTestFleet(url, [job, ...builtin]);
  await fleet.work();
  const before = Date.now() - 60_000;
  const handles = await Promise.all(
    [0, 1, 2, 3].map((n) => fleet.enqueue(job, { n }, { delayMs: n === 3 ? 3_600_000 : 0 })),
  );
  const [done, retried, running, delayed] = handles.map((handle) => handle) as [
    (typeof handles)[0],
    (typeof handles)[0],
    (typeof handles)[0],
    (typeof handles)[0],
  ];
  expect(await done.result({ timeoutMs: 60_000 })).toBe(0);
  expect(await retried.result({ timeoutMs: 60_000 })).toBe(1);
  await expect.poll(async () => (await fleet.get(running.id))?.status).toBe('running');
  for (const handle of [running, delayed]) {
    await handle.cancel();
    await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'CANCELLED' });
  }
  const seen = await fleet.get(retried.id);
  for (const time of [seen?.createdAt, seen?.startedAt, seen?.finishedAt]) {
    const ms = Date.parse(String(time));
    expect(ms).toBeGreaterThan(before);
    expect(ms).toBeLessThan(Date.now() + 60_000);
  }
  const [first, second] = (await fleet.get(retried.id))?.attempts ?? [];
  expect(Date.parse(String(second?.startedAt)) - Date.parse(String(first?.finishedAt))).toBeGreaterThanOrEqual(100);
  const { jobs } = await fleet.find({ name: 'odd' });
  expect(jobs.map(({ id }) => id)).toEqual(expect.arrayContaining(handles.map(({ id }) => id)));
  const events: string[] = [];
  for await (const { event } of fleet.follow(retried.id)) events.push(event.type);
  expect(events).toEqual(['attempt', 'n', 'retry', 'attempt', 'n', 'end'].slice(events[0] === 'attempt' ? 0 : 1));
  await search(fleet);
  await enqueueInside(url, fleet);
  // A job that is cancelled while it is delayed stays in BullMQ until then.
  const expected = new Set(['no-reconciler', 'superfluous']);
  expect((await fleet.doctor({ lookAgainMs: 100 })).findings.filter(({ kind }) => !expected.has(kind))).toEqual([]);
  await fleet.sweep();
  await fleet.close();
}

/** The search index is bytes. */
async function search(fleet: ReturnType<typeof createTestFleet>): Promise<void> {
  const documents = [{ path: 'tea.md', content: '# Tea\n\nGreen tea wants 80 degrees.' }];
  await (await fleet.enqueue('ingest', { collection: 'notes', documents })).result({ timeoutMs: 60_000 });
  const answer = await fleet.enqueue('answer', { collection: 'notes', question: 'How hot should green tea be?' });
  expect(JSON.stringify(await answer.result({ timeoutMs: 60_000 }))).toContain('80 degrees');
}

/** In a transaction of the caller's, on a connection as `pg` makes it. */
async function enqueueInside(url: string, fleet: ReturnType<typeof createTestFleet>): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    await client.query('begin');
    const inside = await fleet.enqueue(job, { n: 4 }, { tx: client });
    await client.query('commit');
    expect(await inside.result({ timeoutMs: 60_000 })).toBe(4);
  } finally {
    await client.end();
  }
}
