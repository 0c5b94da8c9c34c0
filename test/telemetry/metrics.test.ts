/** Metrics of a process with real servers: counted at the door of transitions and at probes, and read from rows. */
import { sql } from 'kysely';
import { expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { NonRetryableError } from '../../src/errors.ts';
import { defineJob } from '../../src/jobs/define-job.ts';
import { JournalWriter } from '../../src/journal/writer.ts';
import { silentLogger } from '../../src/log.ts';
import { shareOf } from '../../src/runtime/shared-runtime.ts';
import { Metrics, type MetricsOptions } from '../../src/telemetry/metrics.ts';
import type { Fleet, FleetOptions } from '../../src/workers/fleet.ts';
import { connectionLost, withFaults } from '../helpers/faulty-db.ts';
import { claimFree, insertJob, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { seriesOf, sumOf } from './metrics-text.ts';

const file = useDatabase();

const POLL = { timeout: 15_000, interval: 20 };

const gate = { open: Promise.withResolvers<void>() };

const said = defineJob({
  name: 'said',
  input: z.object({ words: z.array(z.string()) }),
  async run({ words }, ctx) {
    for (const text of words) await ctx.emit({ type: 'delta', text });
    await ctx.emit({ type: 'usage', model: 'm', inputTokens: 7, outputTokens: words.length, totalTokens: 99 });
    await ctx.flush();
    return null;
  },
});

const broken = defineJob({
  name: 'broken',
  attempts: 2,
  backoff: { type: 'fixed', delayMs: 0 },
  input: z.object({ forGood: z.boolean() }),
  run: async ({ forGood }) => {
    throw forGood ? new NonRetryableError('for good') : new Error('again');
  },
});

const held = defineJob({
  name: 'held',
  input: z.object({}),
  async run(_input, ctx) {
    await gate.open.promise;
    await ctx.checkpoint({ late: true });
    return null;
  },
});

function measured(
  overrides: Partial<FleetOptions> = {},
  options: Partial<MetricsOptions> = {},
): { fleet: Fleet; metrics: Metrics } {
  const fleet = createTestFleet(file.url, [said, broken, held], overrides);
  const metrics = new Metrics({ runtime: shareOf('fleet', fleet).runtime, rows: true, freshMs: 0, ...options });
  onTestFinished(() => metrics.close());
  return { fleet, metrics };
}

it('counts transitions, outcomes, errors, run times and tokens at the door, each once', async () => {
  const { fleet, metrics } = measured();
  await fleet.work();
  await (await fleet.enqueue(said, { words: ['a', 'b', 'c'] }, { tenant: 'acme' })).result();
  await (await fleet.enqueue(broken, { forGood: false })).result().catch(() => undefined);
  await (await fleet.enqueue(broken, { forGood: true })).result().catch(() => undefined);
  await expect.poll(async () => sumOf(await metrics.render(), 'oncefleet_outcomes_total'), POLL).toBe(3);
  const series = seriesOf(await metrics.render());
  const counted = (type: string, name: string) =>
    series.get(`oncefleet_transitions_total{name="${name}",queue="${name}",type="${type}"}`);
  expect({
    created: counted('created', 'said'),
    claimed: counted('claimed', 'said'),
    completed: counted('completed', 'said'),
  }).toEqual({
    created: 1,
    claimed: 1,
    completed: 1,
  });
  expect({
    claimed: counted('claimed', 'broken'),
    retried: counted('retried', 'broken'),
    failed: counted('failed', 'broken'),
  }).toEqual({
    claimed: 3,
    retried: 1,
    failed: 2,
  });
  expect(series.get('oncefleet_outcomes_total{outcome="completed",tenant="acme"}')).toBe(1);
  expect(series.get('oncefleet_outcomes_total{outcome="failed",tenant="default"}')).toBe(2);
  expect(series.get('oncefleet_run_seconds_count{name="broken",outcome="failed"}')).toBe(2);
  expect(sumOf(await metrics.render(), 'oncefleet_failures_total', { name: 'broken' })).toBe(3);
  const used = 'model="m",name="said",tenant="acme"}';
  expect(series.get(`oncefleet_tokens_total{direction="input",${used}`)).toBe(7);
  expect(series.get(`oncefleet_tokens_total{direction="output",${used}`)).toBe(3);
});

it('measures flushes and publishing, pools, and the event loop', async () => {
  const { fleet, metrics } = measured();
  await fleet.work();
  await (await fleet.enqueue(said, { words: ['a', 'b'] })).result();
  await expect
    .poll(async () => sumOf(await metrics.render(), 'oncefleet_publish_seconds_count'), POLL)
    .toBeGreaterThan(0);
  const text = await metrics.render();
  expect(sumOf(text, 'oncefleet_flush_seconds_count')).toBeGreaterThan(0);
  // Two words and the usage; the terminal event commits with the outcome.
  expect(sumOf(text, 'oncefleet_flush_events_sum')).toBe(3);
  expect(sumOf(text, 'oncefleet_flush_characters_total')).toBeGreaterThan(60);
  expect(sumOf(text, 'oncefleet_postgres_connections', { state: 'limit' })).toBe(5);
  expect(sumOf(text, 'oncefleet_postgres_connections', { state: 'idle' })).toBeGreaterThan(0);
  expect(text).toMatch(/^nodejs_eventloop_lag_seconds /m);
});

it('counts lease losses and the writes that a fence refuses', async () => {
  const { fleet, metrics } = measured();
  await fleet.work();
  const { id } = await fleet.enqueue(held, {});
  await expect.poll(async () => (await fleet.get(id))?.status, POLL).toBe('running');
  expect(sumOf(await metrics.render(), 'oncefleet_leases_held')).toBe(1);
  // Somebody else has the job.
  await sql`update oncefleet.jobs set fence = fence + 1, lease_owner = 'another',
    lease_expires_at = clock_timestamp() + interval '1 hour' where id = ${id}`.execute(file.db);
  gate.open.resolve();
  await expect
    .poll(async () => sumOf(await metrics.render(), 'oncefleet_writes_refused_total', { write: 'checkpoint' }), POLL)
    .toBeGreaterThan(0);
  await expect.poll(async () => sumOf(await metrics.render(), 'oncefleet_leases_held'), POLL).toBe(0);
  gate.open = Promise.withResolvers();
  const lost = await fleet.enqueue(held, {});
  await expect.poll(async () => (await fleet.get(lost.id))?.status, POLL).toBe('running');
  await sql`update oncefleet.jobs set fence = fence + 1, lease_owner = 'another',
    lease_expires_at = clock_timestamp() + interval '1 hour' where id = ${lost.id}`.execute(file.db);
  await expect
    .poll(async () => sumOf(await metrics.render(), 'oncefleet_lease_losses_total', { why: 'taken' }), POLL)
    .toBe(1);
  gate.open.resolve();
});

it('counts gaps that followers fill, and followers that are too slow', async () => {
  const { fleet, metrics } = measured();
  const { id } = await fleet.enqueue(said, { words: Array.from({ length: 50 }, (_, i) => `word ${i}`) });
  const following = fleet.followBatches(id, { maxInboxLength: 10 });
  const first = following.next();
  await fleet.work();
  for (let batch = await first; batch.done !== true; batch = await following.next())
    batch.value.skip(Number.POSITIVE_INFINITY);
  const text = await metrics.render();
  expect(sumOf(text, 'oncefleet_demotions_total')).toBeGreaterThan(0);
  expect(sumOf(text, 'oncefleet_gaps_total')).toBeGreaterThan(0);
  expect(sumOf(text, 'oncefleet_gap_events_total')).toBeGreaterThan(0);
});

it('counts live messages that Redis was not given', async () => {
  const { fleet, metrics } = measured({ redisUrl: 'redis://127.0.0.1:1' });
  const { runtime } = shareOf('fleet', fleet);
  runtime.publisher.publishEndings(['018f0000-0000-7000-8000-000000000000']);
  expect(sumOf(await metrics.render(), 'oncefleet_unpublished_messages_total', { reason: 'skipped' })).toBe(1);
});

it('counts flushes that met a Postgres that does not answer', async () => {
  const { fleet, metrics } = measured();
  const { probes, publisher } = shareOf('fleet', fleet).runtime;
  let failures = 2;
  const before = () => {
    if (failures-- > 0) throw connectionLost();
  };
  const writer = new JournalWriter({ db: withFaults(file.db, { before }), publisher, log: silentLogger(), probes });
  onTestFinished(() => writer.close({ timeoutMs: 1 }));
  const id = await insertJob(file.db);
  const { fence, nextSeq } = await claimFree(file.db, id);
  const stream = writer.open({ streamId: id, fence, nextSeq, onRefused: () => undefined });
  await stream.emit({ type: 'only' });
  await writer.flush();
  const text = await metrics.render();
  expect(sumOf(text, 'oncefleet_flush_failures_total')).toBe(2);
  expect(sumOf(text, 'oncefleet_flush_events_sum')).toBe(1);
});

it('counts rounds of the reconciler', async () => {
  const { fleet, metrics } = measured();
  await fleet.work();
  await expect
    .poll(async () => sumOf(await metrics.render(), 'oncefleet_reconciler_rounds_total', { result: 'done' }), POLL)
    .toBeGreaterThan(0);
  await expect
    .poll(async () => seriesOf(await metrics.render()).get('oncefleet_reconciler_round_age_seconds'), POLL)
    .toBeLessThan(60);
});

it('without a listener nothing is put together: close() takes it away', () => {
  const { fleet, metrics } = measured();
  const { runtime } = shareOf('fleet', fleet);
  expect([runtime.observers.listening, runtime.probes.listener !== undefined]).toEqual([true, true]);
  metrics.close();
  expect([runtime.observers.listening, runtime.probes.listener !== undefined]).toEqual([false, false]);
});

it('a label has a bounded number of values; the others are "other", and nothing is lost', async () => {
  const { fleet, metrics } = measured({}, { rows: false });
  for (let n = 0; n < 60; n++) await fleet.enqueue(said, { words: [] }, { tenant: `tenant-${n}` });
  const ids = (await Promise.all(Array.from({ length: 60 }, (_, n) => fleet.find({ tenant: `tenant-${n}` })))).map(
    ({ jobs: [job] }) => job as { id: string; tenant: string },
  );
  for (const { id, tenant } of ids) await fleet.cancel(id, { tenant });
  await expect.poll(async () => sumOf(await metrics.render(), 'oncefleet_outcomes_total'), POLL).toBe(60);
  const text = await metrics.render();
  const tenants = [...seriesOf(text).keys()].filter((key) => key.startsWith('oncefleet_outcomes_total{'));
  expect(tenants).toHaveLength(21);
  expect(sumOf(text, 'oncefleet_outcomes_total', { tenant: 'other', outcome: 'cancelled' })).toBe(40);
  expect(text).not.toContain('oncefleet_rows_up');
});

it('a handler may say anything of its usage: what is no number of tokens is not counted', async () => {
  const { fleet, metrics } = measured();
  const { listener } = shareOf('fleet', fleet).runtime.probes;
  for (const usage of [
    {},
    { model: 5, inputTokens: -1, outputTokens: Number.NaN },
    { model: null, inputTokens: '9', outputTokens: Number.POSITIVE_INFINITY },
    { model: 'x'.repeat(500), inputTokens: 2 },
  ])
    listener?.tokensUsed({ name: 'job', tenant: 't' }, usage);
  const text = await metrics.render();
  expect(sumOf(text, 'oncefleet_tokens_total')).toBe(2);
  expect(sumOf(text, 'oncefleet_tokens_total', { model: 'other' })).toBe(2);
});
