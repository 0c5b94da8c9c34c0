import { EventSource } from 'eventsource';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { createApp } from '../../src/http/app.ts';
import { silentLogger } from '../../src/log.ts';
import { createFakeClient, type FakeClient } from './fake-client.ts';
import { gate, type Harness, startHarness } from './harness.ts';
import { inject, listenLocally } from './requests.ts';
import { type ParsedEvent, RawRequest } from './sse-reader.ts';

const SSE = { accept: 'text/event-stream' };
const UNKNOWN = '0198c5f2-0000-7000-8000-000000000000';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness?.close());

async function enqueue(name: string, input: unknown, tenant = 'default'): Promise<string> {
  return (await harness.fleet.enqueue(name, input, { tenant })).id;
}

async function finish(id: string): Promise<void> {
  // Not expect.poll, which hooks may not use.
  await vi.waitFor(async () => expect((await harness.fleet.get(id))?.status).toMatch(/completed|failed|cancelled/), {
    timeout: 60_000,
  });
}

const eventsPath = (ids: readonly string[], query = '') => `/v1/events?streams=${ids.join(',')}${query}`;
const read = (ids: readonly string[], query = '', headers: Record<string, string> = {}) =>
  new RawRequest(harness.port, eventsPath(ids, query), { ...SSE, ...headers }).closed();
const keyOf = (id: string) => id.slice(-12);

interface Told {
  stream: string;
  seq: number;
  fence: number;
  event: { type: string };
}

/** Each stream's part of what was told, as texts: order and bytes count within a stream alone. */
function byStream(events: readonly ParsedEvent[]): Record<string, string[]> {
  const parts: Record<string, string[]> = {};
  for (const { event, data } of events) {
    const told = JSON.parse(data) as Told;
    expect(event).toBe(told.event.type);
    parts[told.stream] ??= [];
    parts[told.stream]?.push(data);
  }
  return parts;
}

async function journalsOf(...ids: string[]): Promise<Record<string, string[]>> {
  const parts: Record<string, string[]> = {};
  for (const id of ids) {
    const { events } = await harness.fleet.readEvents(id, { limit: 1_000 });
    parts[id] = events.map(
      ({ seq, fence, json }) => `{"stream":"${id}","seq":${seq},"fence":${fence},"event":${json}}`,
    );
  }
  return parts;
}

describe('several finished streams', () => {
  let a: string;
  let b: string;
  beforeAll(async () => {
    [a, b] = [await enqueue('parrot', ['\0', '🔑\r\n']), await enqueue('parrot', [1])];
    await Promise.all([a, b].map(finish));
  });

  it('are replayed, each in its order and byte for byte, and end cleanly together', async () => {
    const reader = await read([a, b]);
    expect(reader.headers).toMatchObject({ 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' });
    expect(reader.body.complete).toBe(true);
    expect(reader.body.text.startsWith('retry: 1000\n\n')).toBe(true);
    expect(byStream(reader.events)).toEqual(await journalsOf(a, b));
    const last = reader.events.at(-1)?.id?.split(',').sort();
    expect(last).toEqual([`${keyOf(a)}=2`, `${keyOf(b)}=1`].sort());
  });

  it('are the same stories however the response is cut: at every byte, then resumed', async () => {
    const whole = await read([a, b]);
    const journals = await journalsOf(a, b);
    const start = whole.bytes.indexOf('\r\n\r\n') + 4;
    const cuts = Array.from({ length: whole.bytes.length - start }, (_, at) => start + at);
    const resume = async (cutAt: number) => {
      const first = await new RawRequest(harness.port, eventsPath([a, b]), SSE, cutAt).closed();
      const seen = first.events;
      const rest = await read([a, b], '', seen.length === 0 ? {} : { 'last-event-id': seen.at(-1)?.id as string });
      return [...seen, ...rest.events];
    };
    for (let at = 0; at < cuts.length; at += 16) {
      for (const story of await Promise.all(cuts.slice(at, at + 16).map(resume)))
        expect(byStream(story)).toEqual(journals);
    }
  });

  it('go on from a cursor, whichever way it comes, and the header is believed more than the URL', async () => {
    const journals = await journalsOf(a, b);
    const cursor = `${keyOf(a)}=0,${keyOf(b)}=0`;
    const rest = { [a]: journals[a]?.slice(1), [b]: journals[b]?.slice(1) };
    const stale = `&after=${keyOf(a)}=1`;
    for (const reader of [
      await read([a, b], `&after=${cursor}`),
      await read([a, b], `&lastEventId=${encodeURIComponent(cursor)}`),
      await read([b, a], stale, { 'last-event-id': cursor }),
      await read([a, b], `&after=${a}=0,${b}=0`),
      await read([a, b], `&after=${cursor},${keyOf(UNKNOWN)}=7`),
    ])
      expect(byStream(reader.events)).toEqual(rest);
    // A stream without a cursor is told from its start.
    expect(byStream((await read([a, b], stale)).events)).toEqual({
      [a]: journals[a]?.slice(2),
      [b]: journals[b],
    });
    expect(byStream((await read([a, b], '&after=', { 'last-event-id': '' })).events)).toEqual(journals);
  });

  it('are 204 once all are past their terminal events, and not before', async () => {
    expect((await read([a, b], '', { 'last-event-id': `${keyOf(a)}=2,${keyOf(b)}=1` })).status).toBe(204);
    expect((await read([a, b], '', { 'last-event-id': `${keyOf(a)}=2,${keyOf(b)}=900` })).status).toBe(204);
    const one = await read([a, b], '', { 'last-event-id': `${keyOf(a)}=2,${keyOf(b)}=0` });
    expect(byStream(one.events)).toEqual({ [b]: (await journalsOf(b))[b]?.slice(1) });
  });

  it('named twice are told once', async () => {
    expect(byStream((await read([a, b, a, a.toUpperCase()])).events)).toEqual(await journalsOf(a, b));
  });

  it('have cursors by their whole ids where two ids end alike', async () => {
    const twin = `${b.slice(0, -12)}${a.slice(-12)}`;
    const { db } = harness.fleet;
    await sql`update oncefleet.jobs set id = ${twin} where id = ${b}`.execute(db);
    await sql`update oncefleet.journal_segments set stream_id = ${twin} where stream_id = ${b}`.execute(db);
    await sql`update oncefleet.stream_heads set stream_id = ${twin} where stream_id = ${b}`.execute(db);
    b = twin;
    const last = (await read([a, b])).events.at(-1)?.id as string;
    expect(last.split(',').sort()).toEqual([`${a}=2`, `${b}=1`].sort());
    expect((await read([a, b], '', { 'last-event-id': last })).status).toBe(204);
  });

  it.each([
    'x',
    '=',
    'a=1',
    '3',
    `${'a'.repeat(12)}=x`,
    `${'a'.repeat(12)}=1=2`,
    `${'a'.repeat(12)}=1,`,
    `${'a'.repeat(12)}=`,
  ])('refuse the malformed cursor %j', async (cursor) => {
    const response = await fetch(harness.url(eventsPath([a, b], `&after=${cursor}`)), { headers: SSE });
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([400, 'CURSOR_INVALID']);
  });

  it.each([
    ['', 400, 'INPUT_INVALID'],
    ['streams=', 400, 'INPUT_INVALID'],
    ['streams=,,', 400, 'INPUT_INVALID'],
    [
      `streams=${Array.from({ length: 51 }, (_, n) => UNKNOWN.replace(/..$/, String(10 + n))).join(',')}`,
      400,
      'INPUT_INVALID',
    ],
    [`streams=${UNKNOWN}`, 404, 'JOB_NOT_FOUND'],
    ['streams=nope', 400, 'INPUT_INVALID'],
  ])('refuse the list %j', async (query, status, code) => {
    const response = await inject(harness.app, `/v1/events?${query}`);
    expect([response.statusCode, response.json().code]).toEqual([status, code]);
  });

  it('name the ids that are none, by their places', async () => {
    const response = await fetch(harness.url(`/v1/events?streams=${UNKNOWN},nope,,${UNKNOWN}x`));
    expect(await response.json()).toMatchObject({
      status: 400,
      code: 'INPUT_INVALID',
      issues: [
        { path: 'streams[1]', message: 'expected the id of a job, a UUID' },
        { path: 'streams[3]', message: 'expected the id of a job, a UUID' },
      ],
    });
  });

  it.each([
    ['too many ids that are none: one issue, not thousands', Array.from({ length: 4_000 }, (_, n) => n), ['streams']],
    ['one id that is none, over and over: its first place', Array.from({ length: 4_000 }, () => 'x'), ['streams[0]']],
  ])('are refused for %s', async (_what, ids, paths) => {
    const response = await inject(harness.app, `/v1/events?streams=${ids.join(',')}`);
    const { code, issues } = response.json() as { code: string; issues: { path: string }[] };
    expect([response.statusCode, code, issues.map(({ path }) => path)]).toEqual([400, 'INPUT_INVALID', paths]);
  });

  it('are 404 as a whole where one is another tenant’s, and 401 without a token', async () => {
    const other = await enqueue('parrot', [], 'acme');
    const app = harness.another({ tokens: new Map([['token-of-default-tenant', 'default']]) });
    const port = await listenLocally(app);
    const answer = async (ids: string[], query = '') =>
      (await fetch(`http://127.0.0.1:${port}${eventsPath(ids, query)}`, { headers: SSE })).status;
    expect(await answer([a, b])).toBe(401);
    const token = '&token=token-of-default-tenant';
    expect(await answer([a, other], token)).toBe(404);
    expect(await answer([a, b], token)).toBe(200);
    await app.close();
  });

  it('answer HEAD with their headers alone', async () => {
    const response = await fetch(harness.url(eventsPath([a, b])), { method: 'HEAD' });
    expect([response.status, response.headers.get('content-type')]).toEqual([200, 'text/event-stream']);
  });

  it('are 410 where the events of one are past their retention, as that stream is alone', async () => {
    const gone = await enqueue('parrot', [1, 2]);
    await finish(gone);
    await sql`update oncefleet.stream_heads set kept_from = next_seq where stream_id = ${gone}`.execute(
      harness.fleet.db,
    );
    await sql`delete from oncefleet.journal_segments where stream_id = ${gone}`.execute(harness.fleet.db);
    for (const path of [eventsPath([a, gone]), `/v1/jobs/${gone}/events`]) {
      const response = await fetch(harness.url(path), { headers: SSE });
      expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([410, 'STREAM_EXPIRED']);
      const source = new EventSource(harness.url(path));
      await expect.poll(() => source.readyState, { timeout: 15_000 }).toBe(EventSource.CLOSED);
    }
    const page = await fetch(harness.url(`/v1/jobs/${gone}/events`));
    expect(page.status).toBe(410);
    const past = await fetch(harness.url(`/v1/jobs/${gone}/events?after=2`), { headers: SSE });
    expect(past.status).toBe(204);
  });
});

describe('several streams in flight', () => {
  it('are told as they come, and the response ends when the last of them does', async () => {
    const [a, b] = [
      await enqueue('stepper', { gate: 'multi-a', steps: 2 }),
      await enqueue('stepper', { gate: 'multi-b', steps: 1 }),
    ];
    const reader = new RawRequest(harness.port, eventsPath([a, b]), SSE);
    const told = () => reader.events.map(({ data }) => (JSON.parse(data) as Told).stream);
    gate.open('multi-a');
    await expect.poll(told, { timeout: 15_000 }).toEqual([a]);
    gate.open('multi-b');
    await expect.poll(told, { timeout: 15_000 }).toEqual([a, b, b]);
    expect(reader.ended).toBe(false);
    gate.open('multi-a');
    await reader.closed();
    expect(reader.body.complete).toBe(true);
    expect(byStream(reader.events)).toEqual(await journalsOf(a, b));
  });

  it('reach an EventSource whole across a restart of the server, which then stops', async () => {
    const [a, b] = [
      await enqueue('stepper', { gate: 'es-a', steps: 3 }),
      await enqueue('stepper', { gate: 'es-b', steps: 2 }),
    ];
    let app = harness.another({});
    const port = await listenLocally(app);
    const seen: ParsedEvent[] = [];
    const source = new EventSource(`http://127.0.0.1:${port}${eventsPath([a, b])}`);
    for (const type of ['delta', 'end'])
      source.addEventListener(
        type,
        (event) => void seen.push({ id: event.lastEventId, event: event.type, data: event.data }),
      );
    try {
      for (const name of ['es-a', 'es-b']) gate.open(name);
      await expect.poll(() => seen.length, { timeout: 15_000 }).toBe(2);
      await app.close();
      app = harness.another({});
      await listenLocally(app, port);
      gate.open('es-a', 2);
      gate.open('es-b');
      await expect.poll(() => source.readyState, { timeout: 30_000 }).toBe(EventSource.CLOSED);
    } finally {
      source.close();
    }
    expect(byStream(seen)).toEqual(await journalsOf(a, b));
  }, 60_000);
});

describe('several streams, when something breaks', () => {
  const config = { tokens: undefined, adminToken: undefined, tenant: 'default', bodyLimitBytes: 1024 };
  const running: { close(): Promise<unknown> }[] = [];

  afterEach(async () => {
    await Promise.all(running.splice(0).map((app) => app.close()));
  });

  async function listen(client: FakeClient, keepaliveMs = 15_000) {
    const app = createApp({ client, log: silentLogger(), config, board: false, keepaliveMs });
    running.push(app);
    return { app, port: await listenLocally(app) };
  }

  it('are cut off, not ended, when the follower of one stops before its terminal event', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    const [a, b] = [await client.newJob(), await client.newJob()];
    const { promise: stop, resolve } = Promise.withResolvers<void>();
    const { follow } = client;
    Object.assign(client, {
      follow: (id: string, options: object) =>
        id === b
          ? (async function* () {
              yield { seq: 0, fence: 1, event: { type: 'delta' }, json: '{"type":"delta"}' };
              await stop;
            })()
          : follow.call(client, id, options),
    });
    const reader = new RawRequest(port, eventsPath([a, b]), SSE);
    await expect.poll(() => reader.events.length, { timeout: 15_000 }).toBe(1);
    resolve();
    await reader.closed();
    expect(reader.body.complete).toBe(false);
    await expect.poll(() => client.following, { timeout: 15_000 }).toBe(0);
  });

  it('are asked to connect again later while Postgres is unreachable, and by a drain', async () => {
    const client = createFakeClient();
    const { app, port } = await listen(client);
    const [a, b] = [await client.newJob(), await client.newJob()];
    client.push(a, { type: 'delta' });
    const reader = new RawRequest(port, eventsPath([a, b]), SSE);
    await expect.poll(() => reader.events.length, { timeout: 15_000 }).toBe(1);
    const { readEvents } = client;
    client.breakMethod('readEvents', Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' }));
    const away = await new RawRequest(port, eventsPath([a, b]), SSE).closed();
    expect([away.status, away.body]).toEqual([200, { text: 'retry: 5000\n: STORE_UNAVAILABLE\n\n', complete: true }]);
    Object.assign(client, { readEvents });
    await app.close();
    await reader.closed();
    expect(reader.body.complete).toBe(true);
    expect(reader.body.text.endsWith('}\n\nretry: 5000\n\n')).toBe(true);
    expect(client.following).toBe(0);
  });

  it('get one keepalive for all of them when all are quiet', async () => {
    const client = createFakeClient();
    const { port } = await listen(client, 40);
    const ids = await Promise.all(Array.from({ length: 5 }, () => client.newJob()));
    const reader = new RawRequest(port, eventsPath(ids), SSE);
    await expect.poll(() => reader.body.text, { timeout: 15_000 }).toMatch(/^retry: 1000\n\n(: keepalive\n\n){2,}$/);
    for (const id of ids) client.push(id, { type: 'end' });
    await reader.closed();
    expect(reader.body.complete).toBe(true);
  });

  it('with a reader that leaves end all their followers', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    const ids = await Promise.all(Array.from({ length: 5 }, () => client.newJob()));
    const reader = new RawRequest(port, eventsPath(ids), SSE);
    await expect.poll(() => client.following, { timeout: 15_000 }).toBe(5);
    reader.socket.destroy();
    await expect.poll(() => client.following, { timeout: 15_000 }).toBe(0);
  });

  it('with a reader that stalls stop all their followers, and lose nothing', async () => {
    const client = createFakeClient();
    const { port } = await listen(client);
    const ids = await Promise.all(Array.from({ length: 3 }, () => client.newJob()));
    const text = 'x'.repeat(64 * 1024);
    for (const id of ids) {
      for (let i = 0; i < 150; i++) client.push(id, { type: 'delta', text });
      client.push(id, { type: 'end' });
    }
    const reader = new RawRequest(port, eventsPath(ids), SSE);
    reader.socket.pause();
    let pulled = -1;
    let looks = 0;
    await expect
      .poll(
        () => {
          looks = client.pulled === pulled ? looks + 1 : 0;
          pulled = client.pulled;
          return pulled > 0 && looks >= 25;
        },
        { interval: 10 },
      )
      .toBe(true);
    expect(pulled).toBeLessThan(250);
    reader.socket.resume();
    await reader.closed();
    expect(reader.body.complete).toBe(true);
    const seqs = Object.values(byStream(reader.events)).map((part) => part.map((data) => JSON.parse(data).seq));
    expect(seqs).toEqual(ids.map(() => Array.from({ length: 151 }, (_, seq) => seq)));
  });
});
