import { afterEach, describe, expect, it } from 'vitest';
import { createDb } from '../../src/db/client.ts';
import { migrate } from '../../src/db/migrate.ts';
import { startTestPostgres, startTestRedis } from '../helpers/services.ts';
import { gate, type Harness, startHarness } from './harness.ts';
import { RawRequest } from './sse-reader.ts';

const SSE = { accept: 'text/event-stream' };
const stops: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

const json = async (response: Response) => ({
  status: response.status,
  body: (await response.json()) as Record<string, unknown>,
  headers: response.headers,
});

async function enqueue(harness: Harness, input: unknown, key: string) {
  return json(
    await fetch(harness.url('/v1/jobs/stepper'), {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'idempotency-key': key },
      body: JSON.stringify(input),
    }),
  );
}

async function ownPostgres(): Promise<{
  harness: Harness;
  postgres: Awaited<ReturnType<typeof startTestPostgres>>['postgres'];
}> {
  const { postgres, stop } = await startTestPostgres();
  stops.push(stop);
  const db = createDb({ url: postgres.url, maxConnections: 2, applicationName: 'test', onError: () => {} });
  await migrate(db.kysely);
  await db.close();
  const harness = await startHarness({ databaseUrl: postgres.url });
  stops.push(() => harness.close());
  return { harness, postgres };
}

describe('while Postgres is unreachable', () => {
  it('requests get 503 with Retry-After, streams are told to come back, and all is well once it is back', async () => {
    const { harness, postgres } = await ownPostgres();
    const first = await enqueue(harness, { gate: 'outage', steps: 2 }, 'outage');
    const id = first.body['id'] as string;
    gate.open('outage');
    const reader = new RawRequest(harness.port, `/v1/jobs/${id}/events`, SSE);
    await expect.poll(() => reader.events.length).toBe(1);

    await postgres.stop();
    for (const path of [`/v1/jobs/${id}`, '/v1/jobs', `/v1/jobs/${id}/events`]) {
      const { status, body, headers } = await json(await fetch(harness.url(path)));
      expect([path, status, body['code'], headers.get('retry-after')]).toEqual([path, 503, 'STORE_UNAVAILABLE', '5']);
    }
    expect(await enqueue(harness, { gate: 'never', steps: 0 }, 'later')).toMatchObject({
      status: 503,
      body: { code: 'STORE_UNAVAILABLE' },
    });
    const ready = await json(await fetch(harness.url('/readyz')));
    expect(ready).toMatchObject({
      status: 503,
      body: { code: 'STORE_UNAVAILABLE', postgres: 'unreachable', redis: 'ok' },
    });
    expect((await fetch(harness.url('/healthz'))).status).toBe(200);
    const late = await new RawRequest(harness.port, `/v1/jobs/${id}/events`, SSE).closed();
    expect(late.status).toBe(200);
    expect(late.body).toEqual({ complete: true, text: 'retry: 5000\n: STORE_UNAVAILABLE\n\n' });

    await postgres.start();
    await expect.poll(async () => (await fetch(harness.url('/readyz'))).status).toBe(200);
    gate.open('outage');
    await expect
      .poll(async () => (await json(await fetch(harness.url(`/v1/jobs/${id}`)))).body['status'], { timeout: 20_000 })
      .toMatch(/completed|running/);
    gate.open('outage', 4);
    await expect
      .poll(async () => (await json(await fetch(harness.url(`/v1/jobs/${id}`)))).body['status'], { timeout: 20_000 })
      .toBe('completed');
    // Whatever became of the reader: resumed from its last event, it has the journal's story.
    await reader.closed();
    const seen = reader.events;
    const rest = await new RawRequest(harness.port, `/v1/jobs/${id}/events`, {
      ...SSE,
      'last-event-id': seen.at(-1)?.id as string,
    }).closed();
    const { events } = await harness.fleet.readEvents(id);
    expect([...seen, ...rest.events].map((event) => event.data)).toEqual(events.map((event) => event.json));
  }, 90_000);
});

describe('while Redis is away', () => {
  it('jobs are accepted and read, /readyz says what is wrong, and the job runs once Redis is back', async () => {
    const { redis, stop } = await startTestRedis();
    stops.push(stop);
    const harness = await startHarness({ redisUrl: redis.url });
    stops.push(() => harness.close());
    await redis.stop();

    const accepted = await enqueue(harness, { gate: 'redis', steps: 1 }, 'redis-away');
    expect(accepted).toMatchObject({ status: 202, body: { outcome: 'created' } });
    const id = accepted.body['id'] as string;
    expect((await enqueue(harness, { gate: 'redis', steps: 1 }, 'redis-away')).body).toMatchObject({
      id,
      outcome: 'attached',
    });
    expect((await json(await fetch(harness.url(`/v1/jobs/${id}`)))).body).toMatchObject({ id, status: 'pending' });
    const ready = await json(await fetch(harness.url('/readyz')));
    expect(ready).toMatchObject({
      status: 503,
      body: { code: 'SERVICE_MISSING', postgres: 'ok', redis: 'unreachable' },
    });
    for (const [method, path] of [
      ['GET', 'queues'],
      ['GET', `queues/stepper/${id}`],
      ['PUT', 'queues/stepper/pause'],
    ] as const) {
      const board = await json(
        await fetch(harness.url(`/admin/queues/api/${path}`), { method, signal: AbortSignal.timeout(8_000) }),
      );
      expect([path, board.status, board.body['code']]).toEqual([path, 503, 'SERVICE_MISSING']);
      expect(board.headers.get('retry-after')).toBe('5');
    }
    expect((await fetch(harness.url('/admin/queues/'))).status).toBe(200);
    const reader = new RawRequest(harness.port, `/v1/jobs/${id}/events`, SSE);
    await expect.poll(() => reader.body.text).toContain('retry: 1000');

    await redis.start();
    gate.open('redis');
    await reader.closed();
    expect(reader.body.complete).toBe(true);
    expect(reader.events.map((event) => event.event)).toEqual(['delta', 'end']);
    const { queues } = (await json(await fetch(harness.url('/admin/queues/api/queues')))).body as {
      queues: { name: string; isPaused: boolean }[];
    };
    // What was refused was not kept to be done later.
    expect(queues.find(({ name }) => name === 'stepper')).toMatchObject({ isPaused: false });
  }, 90_000);
});
