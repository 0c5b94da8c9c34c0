import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import { OncefleetError } from '../../src/errors.ts';
import { createApp } from '../../src/http/app.ts';
import { silentLogger } from '../../src/log.ts';
import { createFakeClient, type FakeClient } from './fake-client.ts';
import { inject, listenLocally } from './requests.ts';
import { RawRequest } from './sse-reader.ts';

const config = { tokens: undefined, adminToken: undefined, tenant: 'default', bodyLimitBytes: 1024 };
const SSE = { accept: 'text/event-stream' };
const running: { close(): Promise<unknown> }[] = [];

afterEach(async () => {
  await Promise.all(running.splice(0).map((app) => app.close()));
});

async function listen(
  client: FakeClient,
  options: { keepaliveMs?: number; log?: ReturnType<typeof silentLogger> } = {},
) {
  const app = createApp({ client, log: silentLogger(), config, board: false, ...options });
  running.push(app);
  const port = await listenLocally(app);
  return { app, port };
}

const path = (id: string, query = '') => `/v1/jobs/${id}/events${query}`;

describe('a stream of events', () => {
  it('has the exact headers that clients and proxies look at', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    const id = await client.newJob();
    client.push(id, { type: 'end' });
    const { status, headers } = await new RawRequest(port, path(id), SSE).closed();
    expect(status).toBe(200);
    expect(headers).toMatchObject({
      'content-type': 'text/event-stream',
      'cache-control': expect.stringContaining('no-cache'),
      'x-accel-buffering': 'no',
      'x-content-type-options': 'nosniff',
      'transfer-encoding': 'chunked',
      'x-request-id': expect.stringMatching(/./),
    });
    // Without tokens a page of another origin reads nothing.
    expect(headers).not.toHaveProperty('access-control-allow-origin');
    expect(headers).not.toHaveProperty('content-length');
    expect(headers).not.toHaveProperty('content-encoding');
  });

  it('starts with one retry, before there is any event', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    const reader = new RawRequest(port, path(await client.newJob()), SSE);
    await expect.poll(() => reader.body.text, { timeout: 15_000 }).toBe('retry: 1000\n\n');
    reader.socket.destroy();
  });

  it('gets a keepalive whenever it was quiet, and none while events come', async () => {
    const client = createFakeClient();
    const { port } = await listen(client, { keepaliveMs: 40 });
    const id = await client.newJob();
    const reader = new RawRequest(port, path(id), SSE);
    // At least two: how many fit in between two looks depends on how busy the machine is.
    await expect.poll(() => reader.body.text, { timeout: 15_000 }).toMatch(/^retry: 1000\n\n(: keepalive\n\n){2,}$/);
    client.push(id, { type: 'end' });
    await reader.closed();
    expect(reader.body.complete).toBe(true);
    expect(reader.events).toEqual([{ id: '0', event: 'end', data: '{"type":"end"}' }]);
  });

  it('is cut off, not ended, when the follower fails', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    const id = await client.newJob();
    client.push(id, { type: 'delta' });
    client.breakMethod('follow', new Error('broken'));
    const reader = await new RawRequest(port, path(id), SSE).closed();
    expect(reader.status).toBe(200);
    expect(reader.body.complete).toBe(false);
  });

  it('is cut off, not ended, when the follower stops before the terminal event', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    const id = await client.newJob();
    client.push(id, { type: 'delta' });
    const { promise: stop, resolve } = Promise.withResolvers<void>();
    Object.assign(client, {
      async *follow() {
        yield { seq: 0, fence: 1, cursor: 0, event: { type: 'delta' }, json: '{"type":"delta"}' };
        await stop;
      },
    });
    const reader = new RawRequest(port, path(id), SSE);
    await expect.poll(() => reader.body.text, { timeout: 15_000 }).toContain('id: 0\n');
    resolve();
    await reader.closed();
    expect(reader.body.complete).toBe(false);
  });

  it.each([
    ['a token', '?token=one-of-postgres'],
    ['a ticket', '?ticket=one-of-this-stream'],
  ])(
    'with %s that cannot be checked, as Postgres is unreachable, is asked to connect again later',
    async (_, query) => {
      const away = async () => {
        throw Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
      };
      const client = createFakeClient();
      const id = await client.newJob();
      Object.assign(client, { access: { resolve: away, tickets: { check: away } } });
      const tokens = new Map([['one-of-the-settings', 'default']]);
      const app = createApp({ client, log: silentLogger(), config: { ...config, tokens }, board: false });
      running.push(app);
      const port = await listenLocally(app);
      const reader = await new RawRequest(port, path(id, query), SSE).closed();
      expect(reader.status).toBe(200);
      expect(reader.body).toEqual({ text: 'retry: 5000\n: STORE_UNAVAILABLE\n\n', complete: true });
      const page = await inject(app, path(id, query));
      expect([page.statusCode, page.json().code]).toEqual([503, 'STORE_UNAVAILABLE']);
      if (query.startsWith('?ticket')) return;
      const several = await new RawRequest(port, `/v1/events${query}&streams=${id}`, SSE).closed();
      expect([several.status, several.body]).toEqual([200, reader.body]);
    },
  );

  it('is asked to connect again later, with a 200, while Postgres is unreachable', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    const id = await client.newJob();
    client.breakMethod('readEvents', Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' }));
    const reader = await new RawRequest(port, path(id), SSE).closed();
    expect(reader.status).toBe(200);
    expect(reader.body).toEqual({ text: 'retry: 5000\n: STORE_UNAVAILABLE\n\n', complete: true });
  });

  it('is refused with a 500 that tells nothing when something unexpected happens before it starts', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    client.breakMethod('readEvents', new Error('secret'));
    const reader = await new RawRequest(port, path(await client.newJob()), SSE).closed();
    expect(reader.status).toBe(500);
    expect(reader.bytes.toString()).not.toContain('secret');
  });
});

describe('a reader', () => {
  it('that disconnects ends its follower and leaves the job alone', async () => {
    const client = createFakeClient();
    let cancelled = false;
    const { cancel } = client;
    client.cancel = (...args) => {
      cancelled = true;
      return cancel.apply(client, args);
    };
    const { port } = await listen(client);
    const reader = new RawRequest(port, path(await client.newJob()), SSE);
    await expect.poll(() => client.following, { timeout: 15_000 }).toBe(1);
    reader.socket.destroy();
    await expect.poll(() => client.following, { timeout: 15_000 }).toBe(0);
    expect(cancelled).toBe(false);
  });

  it('that stalls stops its follower, gets the rest once it reads again, and loses nothing', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    const id = await client.newJob();
    const text = 'x'.repeat(64 * 1024);
    for (let i = 0; i < 400; i++) client.push(id, { type: 'delta', text });
    client.push(id, { type: 'end' });
    const reader = new RawRequest(port, path(id), SSE);
    reader.socket.pause();
    await expect.poll(() => client.pulled, { timeout: 15_000 }).toBeGreaterThan(0);
    const stalledAt = await settled(() => client.pulled);
    // Socket buffers take some; the other tens of MB stay where they are.
    expect(stalledAt).toBeLessThan(200);
    reader.socket.resume();
    await reader.closed();
    expect(reader.body.complete).toBe(true);
    expect(reader.events.map((event) => Number(event.id))).toEqual(Array.from({ length: 401 }, (_, seq) => seq));
  });

  it('that stalls stops its follower also where its frames are shared with others', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    const text = 'x'.repeat(64 * 1024);
    const sources = Array.from({ length: 400 }, (_, seq) => ({ seq }));
    let pulled = 0;
    Object.assign(client, {
      async *followBatches() {
        for (const source of sources) {
          pulled++;
          const event = { type: source.seq === 399 ? 'end' : 'delta', text };
          yield {
            source,
            skip: () => undefined,
            *[Symbol.iterator]() {
              yield { seq: source.seq, fence: 1, cursor: source.seq, event, json: JSON.stringify(event) };
            },
          };
        }
      },
    });
    const id = await client.newJob();
    const quick = await new RawRequest(port, path(id), SSE).closed();
    expect(quick.events).toHaveLength(400);
    pulled = 0;
    const reader = new RawRequest(port, path(id), SSE);
    reader.socket.pause();
    await expect.poll(() => pulled, { timeout: 15_000 }).toBeGreaterThan(0);
    expect(await settled(() => pulled)).toBeLessThan(200);
    reader.socket.resume();
    await reader.closed();
    expect(reader.body).toEqual(quick.body);
  });

  it('that stalls gets no keepalives while it takes nothing', async () => {
    const client = createFakeClient();
    const { port } = await listen(client, { keepaliveMs: 40 });
    const id = await client.newJob();
    for (let i = 0; i < 400; i++) client.push(id, { type: 'delta', text: 'x'.repeat(64 * 1024) });
    client.push(id, { type: 'end' });
    const reader = new RawRequest(port, path(id), SSE);
    reader.socket.pause();
    await settled(() => client.pulled);
    // Somebody who has nothing to read tells how long it lasts.
    const quiet = new RawRequest(port, path(await client.newJob()), SSE);
    await expect.poll(() => quiet.body.text.split(': keepalive').length, { timeout: 15_000 }).toBeGreaterThan(15);
    quiet.socket.destroy();
    reader.socket.resume();
    await reader.closed();
    expect(reader.body.complete).toBe(true);
    // A busy machine may have made it quiet for a moment before it stalled, or after.
    expect(reader.body.text.split(': keepalive').length - 1).toBeLessThan(5);
  });

  it('that stalls and goes away ends its follower', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    const id = await client.newJob();
    for (let i = 0; i < 400; i++) client.push(id, { type: 'delta', text: 'x'.repeat(64 * 1024) });
    const reader = new RawRequest(port, path(id), SSE);
    reader.socket.pause();
    await settled(() => client.pulled);
    expect(client.following).toBe(1);
    reader.socket.destroy();
    await expect.poll(() => client.following, { timeout: 15_000 }).toBe(0);
  });
});

describe('a drain', () => {
  it('tells readers to come back later, ends their bodies cleanly and their followers too', async () => {
    const client = createFakeClient();
    const { app, port } = await listen(client);
    const id = await client.newJob();
    client.push(id, { type: 'delta' });
    const reader = new RawRequest(port, path(id), SSE);
    await expect.poll(() => reader.body.text, { timeout: 15_000 }).toContain('id: 0');
    await app.close();
    await reader.closed();
    expect(reader.body).toEqual({
      complete: true,
      text: 'retry: 1000\n\nid: 0\nevent: delta\ndata: {"type":"delta"}\n\nretry: 5000\n\n',
    });
    expect(client.following).toBe(0);
  });

  it('answers what comes meanwhile: streams with retry, pages and enqueues with 503, health with 200', async () => {
    const client = createFakeClient();
    const { app, port } = await listen(client);
    const id = await client.newJob();
    for (let i = 0; i < 400; i++) client.push(id, { type: 'delta', text: 'x'.repeat(64 * 1024) });
    // A reader that takes nothing holds the drain open for its grace.
    const stalled = new RawRequest(port, path(id), SSE);
    stalled.socket.pause();
    await settled(() => client.pulled);
    const closed = app.close();
    const late = new RawRequest(port, path(id), SSE);
    await late.closed();
    expect(late.status).toBe(200);
    expect(late.body).toEqual({ text: 'retry: 5000\n: SHUTTING_DOWN\n\n', complete: true });
    for (const refused of [path(id), `/v1/jobs/${id}`, '/readyz']) {
      const response = await fetch(`http://127.0.0.1:${port}${refused}`);
      expect(response.status).toBe(503);
      expect(response.headers.get('retry-after')).toBe('5');
      expect(await response.json()).toMatchObject({ code: 'SHUTTING_DOWN', status: 503 });
    }
    expect((await fetch(`http://127.0.0.1:${port}/healthz`)).status).toBe(200);
    stalled.socket.resume();
    await closed;
    await stalled.closed();
    expect(client.following).toBe(0);
  });

  it('cuts off a reader that takes nothing, and closes', async () => {
    const client = createFakeClient();
    const { app, port } = await listen(client);
    const id = await client.newJob();
    for (let i = 0; i < 400; i++) client.push(id, { type: 'delta', text: 'x'.repeat(64 * 1024) });
    const stalled = new RawRequest(port, path(id), SSE);
    stalled.socket.pause();
    await settled(() => client.pulled);
    await app.close();
    stalled.socket.resume();
    await stalled.closed();
    expect(stalled.body.complete).toBe(false);
  });

  it('ends the wait of a long poll with what is there', async () => {
    const client = createFakeClient();
    const { app, port } = await listen(client);
    const page = fetch(`http://127.0.0.1:${port}${path(await client.newJob(), '?wait=60')}`);
    await expect.poll(() => client.following, { timeout: 15_000 }).toBe(1);
    await app.close();
    expect(await (await page).json()).toEqual({ events: [], next: -1, finished: false });
  });

  it('answers a request in flight, and does not wait for its connection to time out', async () => {
    const client = createFakeClient();
    const { app, port } = await listen(client);
    const held = Promise.withResolvers<never>();
    const asked = Promise.withResolvers<void>();
    client.get = () => {
      asked.resolve();
      return held.promise;
    };
    // fetch keeps connections open.
    const answer = fetch(`http://127.0.0.1:${port}/v1/jobs/${await client.newJob()}`);
    await asked.promise;
    const closed = app.close();
    await expect.poll(() => app.server.listening, { timeout: 15_000 }).toBe(false);
    held.resolve({ id: 'x' } as never);
    const response = await answer;
    expect([response.status, response.headers.get('connection')]).toEqual([200, 'close']);
    await closed;
  });

  it('may be asked for twice, and before listening', async () => {
    const app = createApp({ client: createFakeClient(), log: silentLogger(), config, board: false });
    await Promise.all([app.close(), app.close()]);
  });
});

describe('a long poll', () => {
  it('ends its follower when the caller goes away', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    const reader = new RawRequest(port, path(await client.newJob(), '?wait=60'));
    await expect.poll(() => client.following, { timeout: 15_000 }).toBe(1);
    reader.socket.destroy();
    await expect.poll(() => client.following, { timeout: 15_000 }).toBe(0);
  });

  it('gives the event itself when it was published before its commit', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    const id = await client.newJob();
    const page = fetch(`http://127.0.0.1:${port}${path(id, '?wait=60')}`);
    await expect.poll(() => client.following, { timeout: 15_000 }).toBe(1);
    Object.assign(client, { readEvents: async () => ({ events: [], next: -1, finished: false }) });
    client.push(id, { type: 'delta', text: 'a' });
    expect(await (await page).json()).toEqual({
      events: [{ seq: 0, fence: 1, event: { type: 'delta', text: 'a' } }],
      next: 0,
      finished: false,
    });
  });

  it('reports a follower that fails', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    client.breakMethod('follow', new OncefleetError('STORE_UNAVAILABLE', 'away'));
    const response = await fetch(`http://127.0.0.1:${port}${path(await client.newJob(), '?wait=1')}`);
    expect(response.status).toBe(503);
  });
});

describe('errors of the store', () => {
  it.each([
    ['a refused connection', Object.assign(new Error('connect ECONNREFUSED 10.0.0.1:5432'), { code: 'ECONNREFUSED' })],
    ['a lost connection', new Error('Connection terminated unexpectedly')],
    ['a shutdown', Object.assign(new Error('terminating connection due to administrator command'), { code: '57P01' })],
    [
      'an error of ours around one',
      new Error('query failed', { cause: Object.assign(new Error('x'), { code: '08006' }) }),
    ],
    ['an error of ours', new OncefleetError('STORE_UNAVAILABLE', 'away')],
  ])('are 503 with Retry-After: %s', async (_what, error) => {
    const client = createFakeClient();
    client.breakMethod('get', error);
    const { app } = await listen(client);
    const response = await inject(app, `/v1/jobs/${crypto.randomUUID()}`);
    expect(response.statusCode).toBe(503);
    expect(response.headers).toMatchObject({ 'retry-after': '5', 'content-type': 'application/problem+json' });
    expect(response.json()).toMatchObject({
      code: 'STORE_UNAVAILABLE',
      status: 503,
      type: 'urn:oncefleet:error:STORE_UNAVAILABLE',
    });
    expect(response.body).not.toContain('10.0.0.1');
  });

  it('that nobody planned for are 500, say nothing, and are in the log without rows or bodies', async () => {
    const lines: string[] = [];
    const log = pino({ level: 'info' }, { write: (line) => void lines.push(line) });
    const client = createFakeClient();
    client.breakMethod(
      'get',
      Object.assign(new Error('relation "x" is gone'), { code: '42P01', detail: 'Failing row contains (secret).' }),
    );
    const { app } = await listen(client, { log });
    const response = await inject(app, {
      url: `/v1/jobs/${crypto.randomUUID()}?token=s3cr3t-in-query`,
      headers: { 'x-request-id': 'req-1' },
    });
    expect(response.statusCode).toBe(500);
    expect(response.json()).toMatchObject({ code: 'INTERNAL', requestId: 'req-1' });
    expect(response.body).not.toContain('relation');
    const logged = lines.join('');
    expect(logged).toContain('relation \\"x\\" is gone');
    expect(logged).toContain('"requestId":"req-1"');
    expect(logged).not.toMatch(/secret|s3cr3t/);
  });
});

describe('/readyz', () => {
  it('says which service is wrong, but not where it is', async () => {
    const client = createFakeClient();
    const { app } = await listen(client);
    expect((await inject(app, '/readyz')).json()).toEqual({ status: 'ready', postgres: 'ok', redis: 'ok' });
    client.healthReport = { postgres: 'connect ECONNREFUSED 10.0.0.1:5432', redis: undefined };
    const postgres = await inject(app, '/readyz');
    expect(postgres.statusCode).toBe(503);
    expect(postgres.json()).toMatchObject({
      code: 'STORE_UNAVAILABLE',
      postgres: 'unreachable',
      redis: 'ok',
      detail: 'Postgres cannot be reached',
    });
    expect(postgres.body).not.toContain('10.0.0.1');
    client.healthReport = { postgres: 'x', redis: 'y', reasons: { postgres: 'read-only', redis: 'cannot-save' } };
    expect((await inject(app, '/readyz')).json()).toMatchObject({
      postgres: 'read-only',
      redis: 'cannot-save',
      detail: 'Postgres is read-only, Redis cannot save its data',
    });
    client.healthReport = { postgres: undefined, redis: 'timeout' };
    const redis = await inject(app, '/readyz');
    expect(redis.statusCode).toBe(503);
    expect(redis.json()).toMatchObject({ code: 'SERVICE_MISSING', postgres: 'ok', redis: 'unreachable' });
    client.healthReport = { postgres: 'x', redis: 'y' };
    expect((await inject(app, '/readyz')).json()).toMatchObject({ detail: 'Postgres and Redis cannot be reached' });
  });

  it('leaves /healthz alone: the process is alive', async () => {
    const client = createFakeClient();
    client.healthReport = { postgres: 'x', redis: 'y' };
    const { app } = await listen(client);
    expect((await inject(app, '/healthz')).json()).toEqual({ status: 'ok' });
  });
});

/** A count once it has not changed for 25 looks, between which the server had its turns: buffers of sockets fill in the background. */
async function settled(count: () => number): Promise<number> {
  let last = -1;
  let looks = 0;
  await expect
    .poll(
      () => {
        looks = count() === last ? looks + 1 : 0;
        last = count();
        return last > 0 && looks >= 25;
      },
      { interval: 10 },
    )
    .toBe(true);
  return last;
}
