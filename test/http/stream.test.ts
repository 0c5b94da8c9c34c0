import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server } from 'node:net';
import { EventSource } from 'eventsource';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { eventPage } from '../../src/http/schemas.ts';
import { gate, type Harness, startHarness } from './harness.ts';
import { inject, listenLocally } from './requests.ts';
import { type ParsedEvent, RawRequest } from './sse-reader.ts';

const SSE = { accept: 'text/event-stream' };
const ANY_PAYLOAD = [
  '\0',
  '\ud800',
  'a\udfffb',
  'line\r\nline\rline\nline\u2028line',
  '🔑é',
  { ['__proto__']: 1 },
  [[[]]],
  null,
  '',
];

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness?.close());

async function enqueue(name: string, input: unknown): Promise<string> {
  const response = await fetch(harness.url(`/v1/jobs/${name}`), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(input),
  });
  return ((await response.json()) as { id: string }).id;
}

async function finish(id: string): Promise<void> {
  // Not expect.poll, which hooks may not use.
  await vi.waitFor(async () => expect((await harness.fleet.get(id))?.status).toMatch(/completed|failed|cancelled/), {
    timeout: 60_000,
  });
}

const eventsPath = (id: string, query = '') => `/v1/jobs/${id}/events${query}`;
const read = (id: string, query = '', headers: Record<string, string> = {}) =>
  new RawRequest(harness.port, eventsPath(id, query), { ...SSE, ...headers }).closed();

/** The stream as the journal has it. */
async function journalOf(id: string): Promise<ParsedEvent[]> {
  const { events } = await harness.fleet.readEvents(id, { limit: 1_000 });
  return events.map(({ seq, event, json }) => ({ id: String(seq), event: event.type, data: json }));
}

describe('a finished stream', () => {
  let id: string;
  let journal: ParsedEvent[];
  beforeAll(async () => {
    id = await enqueue('parrot', ANY_PAYLOAD);
    await finish(id);
    journal = await journalOf(id);
  });

  it('is replayed with its terminal event, byte for byte as journalled, and ends cleanly', async () => {
    const reader = await read(id);
    expect(reader.body.complete).toBe(true);
    expect(reader.events).toEqual(journal);
    expect(journal.map((event) => event.event)).toEqual([...ANY_PAYLOAD.map(() => 'value'), 'end']);
    expect(journal.slice(0, -1).map((event) => JSON.parse(event.data).value)).toEqual(ANY_PAYLOAD);
  });

  it('comes in a few chunks, not one for each frame', async () => {
    const { chunks } = await read(id);
    // The time to reconnect goes out while the stream is looked up; what one read gave goes out together.
    expect(chunks).toHaveLength(2);
    expect(chunks[1]?.match(/^id: /gm)).toHaveLength(journal.length);
  });

  it('tells the time to reconnect once, first', async () => {
    const { text } = (await read(id)).body;
    expect(text.startsWith('retry: 1000\n\n')).toBe(true);
    expect(text.match(/^retry:/gm)).toHaveLength(1);
  });

  it('is replayed from a cursor, whichever way it comes', async () => {
    for (const reader of [
      await read(id, '?after=3'),
      await read(id, '?lastEventId=3'),
      await read(id, '', { 'last-event-id': '3' }),
    ]) {
      expect(reader.events).toEqual(journal.slice(4));
    }
    expect((await read(id, '?after=-1')).events).toEqual(journal);
  });

  it('believes the header more than the URL, which is stale after a reconnect', async () => {
    const reader = await read(id, '?after=1&lastEventId=2', { 'last-event-id': '5' });
    expect(reader.events).toEqual(journal.slice(6));
  });

  it('takes an empty cursor for none', async () => {
    expect((await read(id, '?after=&lastEventId=', { 'last-event-id': '' })).events).toEqual(journal);
  });

  it.each([0, 1, 1_000_000])(
    'is 204 for a cursor %s past its terminal event, which stops an EventSource',
    async (past) => {
      const reader = await read(id, '', { 'last-event-id': String(journal.length - 1 + past) });
      expect(reader.status).toBe(204);
      expect(reader.headers).not.toHaveProperty('content-type');
    },
  );

  it('is the same story however it is cut: at every byte, then resumed', async () => {
    const whole = await read(id);
    const start = whole.bytes.indexOf('\r\n\r\n') + 4;
    const cuts = Array.from({ length: whole.bytes.length - start }, (_, at) => start + at);
    const resume = async (cutAt: number) => {
      const first = await new RawRequest(harness.port, eventsPath(id), SSE, cutAt).closed();
      const seen = first.events;
      const rest = await read(id, '', seen.length === 0 ? {} : { 'last-event-id': seen.at(-1)?.id as string });
      return [...seen, ...rest.events];
    };
    for (let at = 0; at < cuts.length; at += 16) {
      const stories = await Promise.all(cuts.slice(at, at + 16).map(resume));
      for (const story of stories) expect(story).toEqual(journal);
    }
  });
});

describe('a stream in flight', () => {
  it('brings each event as it is committed, then ends', async () => {
    const id = await enqueue('stepper', { gate: 'live', steps: 3 });
    const reader = new RawRequest(harness.port, eventsPath(id), SSE);
    for (let n = 0; n < 3; n++) {
      gate.open('live');
      await expect
        .poll(() => reader.events.map((event) => event.data), { timeout: 15_000 })
        .toContain(`{"type":"delta","n":${n}}`);
    }
    await reader.closed();
    expect(reader.body.complete).toBe(true);
    expect(reader.events).toEqual(await journalOf(id));
  });

  it('brings its events once to each of its readers, wherever they began', async () => {
    const id = await enqueue('stepper', { gate: 'shared', steps: 40 });
    gate.open('shared', 3);
    await expect.poll(async () => (await harness.fleet.readEvents(id)).events.length, { timeout: 15_000 }).toBe(3);
    const cursors = ['', '', '?after=0', '?after=2'];
    const readers = cursors.map((query) => new RawRequest(harness.port, eventsPath(id, query), SSE));
    for (const reader of readers) await expect.poll(() => reader.body.text, { timeout: 15_000 }).toContain('retry');
    await expect.poll(() => readers[0]?.body.text, { timeout: 15_000 }).toContain('id: 2');
    for (let n = 3; n < 40; n++) gate.open('shared');
    await Promise.all(readers.map((reader) => reader.closed()));
    const journal = await journalOf(id);
    expect(journal).toHaveLength(41);
    expect(readers.map((reader) => reader.events)).toEqual([journal, journal, journal.slice(1), journal.slice(3)]);
  });

  it('goes on when a reader leaves, and the reader finds the rest later', async () => {
    const id = await enqueue('stepper', { gate: 'leave', steps: 2 });
    const first = new RawRequest(harness.port, eventsPath(id), SSE);
    gate.open('leave');
    await expect.poll(() => first.events.length, { timeout: 15_000 }).toBe(1);
    first.socket.destroy();
    gate.open('leave');
    await finish(id);
    expect((await harness.fleet.get(id))?.status).toBe('completed');
    const rest = await read(id, '', { 'last-event-id': '0' });
    expect([...first.events, ...rest.events]).toEqual(await journalOf(id));
  });

  it('ends with `cancelled` when the job is cancelled', async () => {
    const id = await enqueue('stepper', { gate: 'cancelled', steps: 1 });
    const reader = new RawRequest(harness.port, eventsPath(id), SSE);
    await expect.poll(async () => (await harness.fleet.get(id))?.status, { timeout: 15_000 }).toBe('running');
    await fetch(harness.url(`/v1/jobs/${id}/cancel`), { method: 'POST' });
    await reader.closed();
    expect(reader.body.complete).toBe(true);
    expect(reader.events.at(-1)?.event).toBe('cancelled');
  });

  it('ends with `error` when the job fails', async () => {
    const reader = await read(await enqueue('failing', { text: 'x' }));
    expect(reader.body.complete).toBe(true);
    const last = reader.events.at(-1);
    expect(last?.event).toBe('error');
    expect(JSON.parse(last?.data ?? '')).toEqual({
      type: 'error',
      error: { code: 'NON_RETRYABLE', message: 'It cannot be done' },
    });
  });

  it.each(['x', '1.5', '-2', '1e3', '0x1', ' ', '1-', '9'.repeat(16), '٣'])(
    'refuses the malformed cursor %j before it starts',
    async (cursor) => {
      const id = await enqueue('echo', { text: 'x' });
      for (const headers of [SSE, {}]) {
        const response = await fetch(harness.url(eventsPath(id, `?after=${encodeURIComponent(cursor)}`)), { headers });
        expect(response.status).toBe(400);
        expect(await response.json()).toMatchObject({ code: 'CURSOR_INVALID' });
      }
    },
  );

  it('refuses a cursor beyond its end', async () => {
    const id = await enqueue('stepper', { gate: 'beyond', steps: 1 });
    for (const headers of [SSE, {}]) {
      const response = await fetch(harness.url(eventsPath(id, '?after=7')), { headers });
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({ code: 'CURSOR_INVALID' });
    }
    gate.open('beyond');
    await finish(id);
  });

  it('answers HEAD with its headers alone', async () => {
    const id = await enqueue('stepper', { gate: 'head', steps: 1 });
    const response = await fetch(harness.url(eventsPath(id)), { method: 'HEAD', headers: SSE });
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('text/event-stream');
    gate.open('head');
    await finish(id);
  });
});

describe('who asks for no event stream', () => {
  it.each([undefined, '*/*', 'application/json', 'text/event-stream;q=0, application/json'])(
    'with Accept %j gets a page',
    async (accept) => {
      const id = await enqueue('echo', { text: 'one two' });
      await finish(id);
      const response = await fetch(harness.url(eventsPath(id)), accept === undefined ? {} : { headers: { accept } });
      expect(response.headers.get('content-type')).toContain('application/json');
      expect(response.headers.get('vary')).toBe('accept');
      const page = eventPage.strict().parse(await response.json());
      expect(page).toEqual({
        events: [
          { seq: 0, fence: 1, event: { type: 'delta', text: 'one' } },
          { seq: 1, fence: 1, event: { type: 'delta', text: 'two' } },
          { seq: 2, fence: 1, event: { type: 'end', result: { said: 'one two' } } },
        ],
        next: 2,
        finished: true,
      });
    },
  );

  it('reads page after page to the end', async () => {
    const id = await enqueue('parrot', ANY_PAYLOAD);
    await finish(id);
    const seen: unknown[] = [];
    for (let after = -1, finished = false; !finished; ) {
      const text = await (await fetch(harness.url(eventsPath(id, `?after=${after}&limit=2`)))).text();
      const page = JSON.parse(text);
      expect(page.events.length).toBeLessThanOrEqual(2);
      seen.push(...page.events.map((item: { event: { value?: unknown } }) => item.event.value));
      ({ next: after, finished } = page);
    }
    expect(seen.slice(0, -1)).toEqual(ANY_PAYLOAD);
    const past = await (await fetch(harness.url(eventsPath(id, '?after=500')))).json();
    expect(past).toMatchObject({ events: [], finished: true });
  });

  it('waits for the next event when told to, and no longer', async () => {
    const id = await enqueue('stepper', { gate: 'poll', steps: 1 });
    const started = performance.now();
    const empty = await (await fetch(harness.url(eventsPath(id, '?wait=1')))).json();
    expect(empty).toEqual({ events: [], next: -1, finished: false });
    expect(performance.now() - started).toBeGreaterThan(900);
    const waiting = fetch(harness.url(eventsPath(id, '?wait=60')));
    gate.open('poll');
    const page = eventPage.strict().parse(await (await waiting).json());
    expect(page.events[0]).toEqual({ seq: 0, fence: 1, event: { type: 'delta', n: 0 } });
  });

  it.each(['limit=0', 'limit=1001', 'limit=x', 'wait=-1', 'wait=61', 'wait=x', 'after=1&after=2'])(
    'is refused %s',
    async (query) => {
      const response = await inject(harness.app, eventsPath(await enqueue('echo', { text: 'x' }), `?${query}`));
      expect(response.statusCode).toBe(400);
      expect(response.json()).toMatchObject({ code: 'INPUT_INVALID' });
    },
  );
});

describe('an EventSource', () => {
  it('that is cut off in mid-frame, again and again, goes on where it was and stops at the end', async () => {
    const steps = 6;
    const id = await enqueue('stepper', { gate: 'eventsource', steps });
    const cutter = await startCutter(harness.port);
    const source = new EventSource(`http://127.0.0.1:${cutter.port}${eventsPath(id, '?after=-1')}`);
    const seen: ParsedEvent[] = [];
    const collect = (event: MessageEvent) =>
      void seen.push({ id: event.lastEventId, event: event.type, data: event.data });
    source.addEventListener('delta', collect);
    source.addEventListener('end', collect);
    try {
      for (let n = 0; n < steps; n++) {
        if (n === 1 || n === 3) cutter.cutInside(`{"type":"delta","n":${n}}`);
        gate.open('eventsource');
        await expect.poll(() => seen.length, { timeout: 15_000 }).toBeGreaterThan(n);
      }
      // After a clean end it connects once more; 204 tells it to stop.
      await expect.poll(() => source.readyState, { timeout: 15_000 }).toBe(EventSource.CLOSED);
    } finally {
      source.close();
      await cutter.close();
    }
    expect(seen).toEqual(await journalOf(id));
    expect(cutter.cuts).toBe(2);
    expect(cutter.lastEventIds).toEqual([undefined, '0', '2', String(steps)]);
  });

  it('reads with the token in its URL, where it cannot set a header', async () => {
    const app = harness.another({ tokens: new Map([['token-of-default-tenant', 'default']]) });
    const port = await listenLocally(app);
    const id = await enqueue('echo', { text: 'one' });
    const source = new EventSource(`http://127.0.0.1:${port}${eventsPath(id, '?token=token-of-default-tenant')}`);
    try {
      const data = await new Promise((resolve) => source.addEventListener('end', (event) => resolve(event.data)));
      expect(JSON.parse(data as string)).toEqual({ type: 'end', result: { said: 'one' } });
    } finally {
      source.close();
    }
  });
});

/** A proxy that cuts the connection in the middle of a text it was told to look for, once a text. */
async function startCutter(targetPort: number) {
  let needle: string | undefined;
  const state = { cuts: 0, lastEventIds: [] as (string | undefined)[] };
  const open = new Set<() => void>();
  const server: Server = createServer((client) => {
    const upstream = connect(targetPort, '127.0.0.1');
    const drop = () => {
      client.destroy();
      upstream.destroy();
      open.delete(drop);
    };
    open.add(drop);
    client.on('data', (bytes) => {
      if (bytes.includes('GET ')) state.lastEventIds.push(/last-event-id: (\S+)/i.exec(bytes.toString())?.[1]);
      upstream.write(bytes);
    });
    upstream.on('data', (bytes) => {
      const at = needle === undefined ? -1 : bytes.indexOf(needle);
      if (at === -1) {
        client.write(bytes);
        return;
      }
      needle = undefined;
      state.cuts++;
      client.write(bytes.subarray(0, at + 5), () => drop());
    });
    for (const socket of [client, upstream]) socket.on('error', drop).on('close', drop);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    get cuts() {
      return state.cuts;
    },
    get lastEventIds() {
      return state.lastEventIds;
    },
    cutInside(text: string) {
      needle = text;
    },
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        for (const drop of open) drop();
      }),
  };
}
