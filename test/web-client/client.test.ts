/** `oncefleet/client` against a real web process, with a way there that fails. */
import { join } from 'node:path';
import fc from 'fast-check';
import { sql } from 'kysely';
import { build, type Rolldown } from 'vite';
import { afterAll, beforeAll, describe, expect, expectTypeOf, it } from 'vitest';
import { fold } from '../../src/journal/fold.ts';
import { type ClientEvent, type ClientOptions, createClient } from '../../src/web-client/index.ts';
import {
  type echo,
  type failing,
  gate,
  type Harness,
  type parrot,
  startHarness,
  type stepper,
} from '../http/harness.ts';
import { listenLocally } from '../http/requests.ts';

type Jobs = { echo: typeof echo; parrot: typeof parrot; stepper: typeof stepper; failing: typeof failing };

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness?.close());

const client = (options: Partial<ClientOptions> = {}) => createClient<Jobs>({ url: harness.url('/'), ...options });

/** What it was asked, and what it does instead of asking the server. */
function faulty(...faults: ((request: () => Promise<Response>) => Promise<Response>)[]) {
  const asked: { url: string; headers: Headers }[] = [];
  const fetching = async (url: unknown, init: RequestInit = {}): Promise<Response> => {
    asked.push({ url: String(url), headers: new Headers(init.headers) });
    const fault = faults.shift();
    return fault === undefined ? fetch(url as string, init) : fault(() => fetch(url as string, init));
  };
  return { asked, fetch: fetching as typeof fetch };
}

const unreachable = async () => {
  throw new TypeError('fetch failed');
};
const answerLost = async (request: () => Promise<Response>) => {
  await request();
  throw new TypeError('fetch failed');
};
const refused =
  (status: number, headers: Record<string, string> = {}) =>
  async () =>
    new Response('{"code": "BUSY", "detail": "later"}', { status, headers });

/** Its body breaks after so many bytes, in pieces of a size. */
const cut = (bytes: number, size: number) => async (request: () => Promise<Response>) => {
  const { body, status, headers } = await request();
  let left = bytes;
  const pieces = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      for (let at = 0; at < chunk.length; at += size) {
        const piece = chunk.subarray(at, Math.min(at + size, at + left, chunk.length));
        left -= piece.length;
        if (piece.length > 0) controller.enqueue(piece);
        if (left <= 0) return controller.error(new TypeError('terminated'));
      }
    },
  });
  return new Response(body?.pipeThrough(pieces), { status, headers });
};

async function collect(events: AsyncIterable<ClientEvent>): Promise<ClientEvent[]> {
  return Array.fromAsync(events);
}

describe('an enqueue', () => {
  it('is one job, whose definition types input and result', async () => {
    const { enqueue, result } = client();
    const job = await enqueue('echo', { text: 'a b' }, { key: 'größe/1' });
    expect(job).toMatchObject({ outcome: 'created', status: expect.any(String) });
    const said = await result(job);
    expect(said).toEqual({ said: 'a b' });
    expectTypeOf(said).toEqualTypeOf<{ said: string }>();
    expect(await enqueue('echo', { text: 'a b' }, { key: 'größe/1' })).toMatchObject({
      id: job.id,
      outcome: 'replayed',
    });
    // @ts-expect-error an input of another type
    await expect(enqueue('echo', { text: 1 })).rejects.toMatchObject({ code: 'INPUT_INVALID', status: 400 });
    // @ts-expect-error no such job
    await expect(enqueue('nobody', {})).rejects.toMatchObject({ code: 'JOB_NAME_UNKNOWN' });
    await expect(enqueue('echo', { text: 'other' }, { key: 'größe/1' })).rejects.toMatchObject({
      name: 'ClientError',
      code: 'KEY_MISMATCH',
      status: 422,
    });
  });

  it.each<[string, Parameters<typeof faulty>]>([
    ['a server that cannot be reached', [unreachable, unreachable]],
    ['an answer that is lost', [answerLost, answerLost]],
    ['a process that has no room', [refused(503, { 'retry-after': '0' }), refused(429)]],
    ['a proxy without a server', [async () => new Response('<html>', { status: 502 }), refused(504)]],
  ])('is sent again under its key after %s', async (_name, faults) => {
    const { asked, fetch } = faulty(...faults);
    const { id } = await client({ fetch }).enqueue('echo', { text: 'once' });
    expect(asked).toHaveLength(3);
    const [key, ...others] = asked.map(({ headers }) => headers.get('idempotency-key'));
    expect(key).toMatch(/^[0-9a-f]{32}$/);
    expect(others).toEqual([key, key]);
    const { rows } = await sql`select id from oncefleet.jobs where idempotency_key = ${key}`.execute(harness.fleet.db);
    expect(rows).toEqual([{ id }]);
  });

  it('is given up at a refusal, and after its time', async () => {
    const { asked, fetch } = faulty();
    await expect(client({ fetch }).enqueue('echo', { text: '' })).rejects.toMatchObject({
      code: 'INPUT_INVALID',
      details: { issues: [{ path: 'text' }] },
    });
    expect(asked).toHaveLength(1);
    const never = client({ fetch: unreachable as typeof fetch, retryMs: 0 });
    await expect(never.enqueue('echo', { text: 'x' })).rejects.toThrow('fetch failed');
  });
});

describe('a stream', () => {
  it('has each event once, wherever connections break and whatever pieces come', async () => {
    const items = [1, 'zwei\nLinien', '😀'.repeat(50), { deep: [null, '\u2028'] }, 'x'.repeat(2_000)];
    const { id } = await harness.fleet.enqueue('parrot', items);
    await harness.fleet.result(id);
    const whole = await collect(client().follow(id));
    expect(whole.map(({ event }) => event)).toEqual([
      ...items.map((value) => ({ type: 'value', value })),
      { type: 'end', result: null },
    ]);
    expect(whole.map(({ seq, cursor }) => [seq, cursor])).toEqual(whole.map((_, n) => [n, String(n)]));
    const breaks = fc.array(fc.tuple(fc.integer({ min: 1, max: 3_500 }), fc.integer({ min: 1, max: 700 })), {
      maxLength: 5,
    });
    await fc.assert(
      fc.asyncProperty(breaks, async (all) => {
        const { fetch } = faulty(...all.map(([bytes, size]) => cut(bytes, size)));
        expect(await collect(client({ fetch }).follow(id))).toEqual(whole);
      }),
      { numRuns: 8 },
    );
  });

  it('goes on where it was after a clean end without a terminal event, and ends at 204', async () => {
    const { id } = await harness.fleet.enqueue('parrot', ['a']);
    await harness.fleet.result(id);
    const drained = async () => new Response('retry: 1\n: SHUTTING_DOWN\n\n', { status: 200 });
    const { asked, fetch } = faulty(drained, drained);
    const events = await collect(client({ fetch }).follow(id));
    expect([events.length, asked.length]).toEqual([2, 3]);
    expect(await collect(client().follow(id, { after: events[1]?.cursor as string }))).toEqual([]);
  });

  it('connects again when nothing comes for a while, not even a comment', async () => {
    const { id } = await harness.fleet.enqueue('stepper', { gate: 'idle', steps: 2 });
    const mute = async (request: () => Promise<Response>) => {
      const { body } = await request();
      return new Response(body?.pipeThrough(new TransformStream({ transform() {} })));
    };
    const { asked, fetch } = faulty(mute, mute);
    const events = collect(client({ fetch, idleMs: 200 }).follow(id));
    // Its job waits until then, so neither connection has ended by itself.
    await expect.poll(() => asked.length, { timeout: 20_000 }).toBe(3);
    gate.open('idle', 2);
    expect((await events).map(({ seq }) => seq)).toEqual([0, 1, 2]);
  });

  it('is left by its reader, and by a signal, which cancels nothing', async () => {
    const { id } = await harness.fleet.enqueue('stepper', { gate: 'left', steps: 2 });
    gate.open('left');
    for await (const { seq } of client().follow(id)) {
      expect(seq).toBe(0);
      break;
    }
    const stop = new AbortController();
    const waiting = collect(client().follow(id, { after: '0', signal: stop.signal }));
    stop.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
    gate.open('left');
    expect(await client().result(id)).toBe(2);
  });

  it('folds with oncefleet/fold', async () => {
    const { follow, enqueue } = client();
    const state = await fold(follow(await enqueue('echo', { text: 'a b c' })));
    expect(state).toMatchObject({ status: 'completed', text: 'abc', result: { said: 'a b c' } });
  });

  it('of which the end is missing is none', async () => {
    const { id } = await harness.fleet.enqueue('parrot', ['a']);
    await harness.fleet.result(id);
    // Its data is whole, the blank line behind it is not there.
    const broken = async () => new Response('retry: 1\n\nid: 0\nevent: value\ndata: {"type":"value","value":"b"}\n');
    const events = await collect(client({ fetch: faulty(broken).fetch }).follow(id));
    expect(events.map(({ event }) => event)).toEqual([
      { type: 'value', value: 'a' },
      { type: 'end', result: null },
    ]);
  });

  it('of no job is an error at once', async () => {
    const { asked, fetch } = faulty();
    const none = collect(client({ fetch }).follow('0198c5f2-0000-7000-8000-000000000000'));
    await expect(none).rejects.toMatchObject({ code: 'JOB_NOT_FOUND', status: 404 });
    expect(asked).toHaveLength(1);
  });
});

describe('an outcome', () => {
  it('that is none is an error with its code', async () => {
    const { enqueue, result, cancel, get } = client();
    const failed = await enqueue('failing', { text: 'x' });
    await expect(result(failed)).rejects.toMatchObject({ message: 'It cannot be done', status: 0 });
    const stopped = await enqueue('stepper', { gate: 'stopped', steps: 1 });
    expect(await cancel(stopped)).toMatch(/^(cancelled|requested)$/);
    await expect(result(stopped)).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(await cancel(stopped)).toBe('finished');
    expect(await get(stopped)).toMatchObject({ status: 'cancelled' });
  });

  it('is had where the events are past their retention', async () => {
    const { id } = await harness.fleet.enqueue('echo', { text: 'kept' });
    await harness.fleet.result(id);
    const expired = async () => new Response('{"code": "STREAM_EXPIRED"}', { status: 410 });
    expect(await client({ fetch: faulty(expired).fetch }).result(id)).toEqual({ said: 'kept' });
  });
});

describe('a token', () => {
  it('is asked for each request, and a ticket opens one stream without it', async () => {
    const tokens = new Map([['token-of-tenant-a-1', 'a']]);
    const url = `http://127.0.0.1:${await listenLocally(harness.another({ tokens }))}`;
    let asked = 0;
    const token = async () => {
      asked++;
      return 'token-of-tenant-a-1';
    };
    const own = createClient<Jobs>({ url, token });
    const job = await own.enqueue('echo', { text: 'mine' });
    await own.result(job);
    expect(asked).toBe(2);
    const other = await own.enqueue('echo', { text: 'other' });
    const { ticket } = await own.ticket(job, { ttl: 60 });
    const { asked: requests, fetch } = faulty();
    const browser = createClient<Jobs>({ url, fetch, token: 'no-token-of-anybody' });
    const events = await collect(browser.follow(job, { ticket }));
    expect(events.at(-1)?.event).toEqual({ type: 'end', result: { said: 'mine' } });
    expect(requests[0]?.headers.get('authorization')).toBeNull();
    await expect(collect(browser.follow(other, { ticket }))).rejects.toMatchObject({ status: expect.any(Number) });
    await expect(browser.get(job)).rejects.toMatchObject({ code: 'UNAUTHORIZED', status: 401 });
  });
});

it('is less than 6 KB, and imports nothing', async () => {
  const entry = join(import.meta.dirname, '../../src/web-client/index.ts');
  const { output } = (await build({
    configFile: false,
    logLevel: 'silent',
    build: {
      write: false,
      minify: true,
      target: 'es2022',
      rolldownOptions: { input: entry, preserveEntrySignatures: 'strict' },
    },
  })) as Rolldown.RolldownOutput;
  const [chunk] = output;
  const { code, imports } = chunk;
  expect(imports).toEqual([]);
  expect(Buffer.byteLength(code)).toBeLessThan(6_000);
  expect(chunk.exports.sort()).toEqual(['ClientError', 'createClient']);
});
