import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { IN_FLIGHT_BYTES } from '../../src/config.ts';
import { createApp } from '../../src/http/app.ts';
import { ByteBudget } from '../../src/http/byte-budget.ts';
import { type Dialect, ReconnectRequired } from '../../src/http/dialects/dialect.ts';
import { NATIVE } from '../../src/http/dialects/native.ts';
import { streamEvents } from '../../src/http/event-stream.ts';
import { frameOf } from '../../src/http/frames.ts';
import { OpenStreams } from '../../src/http/open-streams.ts';
import type { JobEvent, StreamEvent } from '../../src/journal/event.ts';
import { silentLogger } from '../../src/log.ts';
import { createFakeClient } from './fake-client.ts';
import { gate, type Harness, startHarness } from './harness.ts';
import { inject, listenLocally } from './requests.ts';
import { RawRequest } from './sse-reader.ts';

const SSE = { accept: 'text/event-stream' };

/** Each frame is a line that names the method which made it. */
const LINES: Dialect = {
  shared: true,
  headers: { 'x-lines': 'v1' },
  keepalive: 'quiet\n',
  open: () => 'open\n',
  event: ({ seq }) => `event ${seq}\n`,
  attempt: ({ seq }) => `attempt ${seq}\n`,
  rewind: ({ event }) => `rewind ${event.from}\n`,
  end: ({ event }) => `${event.type}\n`,
  close: () => 'close\n',
  unavailable: (code) => `later ${code}\n`,
};

/** A dialect with state: it numbers the frames of its reader, and has no words for what clients cannot take back. */
function numbered(): Dialect {
  let number = 0;
  const line = ({ event }: { event: JobEvent }) => `${number++} ${event.type}\n`;
  return {
    shared: false,
    headers: {},
    keepalive: ': keepalive\n\n',
    open: () => '',
    event: line,
    attempt: () => '',
    end: line,
    close: () => `${number} done\n`,
    unavailable: () => undefined,
  };
}

const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
});

/** An app with a route of a second dialect beside its own. */
async function listenWith(
  app: ReturnType<typeof createApp>,
  client: Parameters<typeof streamEvents>[0]['client'],
  dialect: () => Dialect,
  { keepaliveMs = 15_000 } = {},
) {
  const streams = new OpenStreams();
  const budget = new ByteBudget(IN_FLIGHT_BYTES);
  app.get('/second/:id', async (request, reply) => {
    request.tenant = 'default';
    const { id } = request.params as { id: string };
    return streamEvents(
      { client, streams, keepaliveMs, budget },
      { id, after: -1, dialect: dialect(), request, reply },
    );
  });
  closers.push(() => app.close());
  return { app, streams, port: await listenLocally(app) };
}

async function listenFake(dialect: () => Dialect, options?: { keepaliveMs?: number }) {
  const client = createFakeClient();
  const config = { tokens: undefined, adminToken: undefined, tenant: 'default', bodyLimitBytes: 1024 };
  const app = createApp({ client, log: silentLogger(), config, board: false });
  return { client, ...(await listenWith(app, client, dialect, options)) };
}

describe('two dialects', () => {
  let harness: Harness;
  beforeAll(async () => {
    harness = await startHarness();
  });
  afterAll(() => harness?.close());

  it('that read the same stream at the same time are sent each its own bytes', async () => {
    const { port } = await listenWith(harness.another({}, { board: false }), harness.fleet, () => LINES);
    const { id } = await harness.fleet.enqueue('stepper', { gate: 'dialects', steps: 12 });
    const native = () => new RawRequest(port, `/v1/jobs/${id}/events`, SSE);
    const lines = () => new RawRequest(port, `/second/${id}`);
    const readers = [native(), lines(), native(), lines()];
    for (let n = 0; n < 12; n++) {
      const lengths = readers.map(({ body }) => body.text.length);
      gate.open('dialects');
      // Readers that have an event wait for the next, which reaches them all as one message.
      const grown = () => readers.every(({ body }, i) => body.text.length > (lengths[i] as number));
      await expect.poll(grown, { timeout: 15_000 }).toBe(true);
    }
    await Promise.all(readers.map((reader) => reader.closed()));
    const { events } = await harness.fleet.readEvents(id);
    const [journal, text] = [NATIVE, LINES].map(
      (dialect) => dialect.open() + events.map((event) => frameOf(dialect, event)).join('') + dialect.close(),
    );
    expect(readers.map(({ body }) => body.text)).toEqual([journal, text, journal, text]);
    expect(text).toMatch(/^open\nevent 0\n(event \d+\n){11}end\nclose\n$/);
  });

  it('of which one has state: each reader has its own, live or replayed', async () => {
    const { port } = await listenWith(harness.another({}, { board: false }), harness.fleet, numbered);
    const { id } = await harness.fleet.enqueue('stepper', { gate: 'numbered', steps: 3 });
    const readers = [0, 1].map(() => new RawRequest(port, `/second/${id}`));
    for (let n = 0; n < 3; n++) {
      gate.open('numbered');
      for (const reader of readers)
        await expect.poll(() => reader.body.text, { timeout: 15_000 }).toContain(`${n} delta\n`);
    }
    await Promise.all(readers.map((reader) => reader.closed()));
    readers.push(await new RawRequest(port, `/second/${id}`).closed());
    for (const { body } of readers)
      expect(body).toEqual({ text: '0 delta\n1 delta\n2 delta\n3 end\n4 done\n', complete: true });
  });
});

describe('a dialect', () => {
  it.each<[JobEvent, string, string]>([
    [{ type: 'delta' }, 'event 7\n', 'id: 7\nevent: delta\n'],
    [{ type: 'progress', done: 1 }, 'event 7\n', 'id: 7\nevent: progress\n'],
    [{ type: 'retry' }, 'event 7\n', 'id: 7\nevent: retry\n'],
    [{ type: 'attempt' }, 'attempt 7\n', 'id: 7\nevent: attempt\n'],
    [{ type: 'rewind', from: 8 }, 'rewind 8\n', 'event: rewind\n'],
    [{ type: 'end' }, 'end\n', 'id: 7\nevent: end\n'],
    [{ type: 'error' }, 'error\n', 'id: 7\nevent: error\n'],
    [{ type: 'cancelled' }, 'cancelled\n', 'id: 7\nevent: cancelled\n'],
  ])('is asked for the frame of %j by what it is', (event, line, native) => {
    const json = JSON.stringify(event);
    const placed: StreamEvent = { seq: 7, fence: 1, cursor: 7, event, json };
    expect(frameOf(LINES, placed)).toBe(line);
    expect(frameOf(NATIVE, placed)).toBe(`${native}data: ${json}\n\n`);
  });

  it('has its own headers and keepalives', async () => {
    const { client, port } = await listenFake(() => LINES, { keepaliveMs: 40 });
    const id = await client.newJob();
    const reader = new RawRequest(port, `/second/${id}`);
    await expect.poll(() => reader.body.text, { timeout: 15_000 }).toMatch(/^open\n(quiet\n)+$/);
    client.push(id, { type: 'end' });
    await reader.closed();
    expect(reader.headers).toMatchObject({ 'content-type': 'text/event-stream', 'x-lines': 'v1' });
    expect(reader.body.text).toMatch(/end\nclose\n$/);
  });

  it.each([
    ['that has words for a rewind is sent events before their commit', () => LINES, false],
    ['that has none is sent committed events alone', numbered, true],
  ])('%s', async (_, dialect, committed) => {
    const { client, port } = await listenFake(dialect);
    const { follow } = client;
    const asked: unknown[] = [];
    client.follow = (id, options) => {
      asked.push(options?.committed);
      return follow.call(client, id, options);
    };
    const id = await client.newJob();
    client.push(id, { type: 'end' });
    await new RawRequest(port, `/second/${id}`).closed();
    expect(asked).toEqual([committed]);
  });

  it.each([true, false])('that cannot start over cuts its reader off at an attempt (shared: %s)', async (shared) => {
    const { client, port } = await listenFake(() => ({
      ...LINES,
      shared,
      attempt: () => {
        throw new ReconnectRequired();
      },
    }));
    const id = await client.newJob();
    client.push(id, { type: 'delta' });
    const reader = new RawRequest(port, `/second/${id}`);
    await expect.poll(() => reader.body.text, { timeout: 15_000 }).toBe('open\nevent 0\n');
    client.push(id, { type: 'attempt' }, { type: 'end' });
    await reader.closed();
    expect(reader.body).toEqual({ text: 'open\nevent 0\n', complete: false });
    expect(client.following).toBe(0);
  });

  it.each([
    ['that can tells its reader to come back, and ends', () => LINES, 'open\nlater undefined\n', true],
    ['that cannot is cut off, for its reader would take an end for success', numbered, '', false],
  ])('%s, when the process drains', async (_, dialect, text, complete) => {
    const { client, port, streams } = await listenFake(dialect);
    const reader = new RawRequest(port, `/second/${await client.newJob()}`);
    await expect.poll(() => client.following, { timeout: 15_000 }).toBe(1);
    await streams.drain();
    await reader.closed();
    expect(reader.body).toEqual({ text, complete });
  });

  it.each([
    ['that can is a 200', () => LINES, 200, /^later (SHUTTING_DOWN|STORE_UNAVAILABLE)\n$/],
    ['that cannot is an error with a status', numbered, 503, /"code":"(SHUTTING_DOWN|STORE_UNAVAILABLE)"/],
  ])('%s, when its stream cannot be started for now', async (_, dialect, status, body) => {
    const { app, client, streams } = await listenFake(dialect);
    const id = await client.newJob();
    client.breakMethod('readEvents', Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' }));
    const unreachable = await inject(app, { url: `/second/${id}` });
    const drained = await listenFake(dialect);
    await drained.streams.drain();
    const draining = await inject(drained.app, { url: `/second/${await drained.client.newJob()}` });
    await streams.drain();
    for (const response of [unreachable, draining]) {
      expect(response.statusCode).toBe(status);
      expect(response.body).toMatch(body);
    }
  });
});
