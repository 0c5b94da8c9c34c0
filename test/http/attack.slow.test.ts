/**
 * Attacks on a whole fleet: requests of every wrong kind, connections that misbehave, and what a client of Redis can
 * forge. Each run has another seed, which is printed; `ATTACK_SEED=<seed>` sends the same again.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { Queue } from 'bullmq';
import fc from 'fast-check';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { testRedisUrl } from '../helpers/services.ts';
import {
  type Answer,
  type Attack,
  type AttackStage,
  ask,
  attackOf,
  bearer,
  counted,
  JSON_TYPE,
  type Known,
  MARKS,
  readOperations,
  runs,
  SEED,
  startAttackStage,
  type Tenant,
  TOKENS,
} from './attack.ts';

process.stderr.write(`attack suite: ATTACK_SEED=${SEED}\n`);

const FUZZED = 1_200;
const CLIENTS = 120;
const FORGED = 400;
const OTHER: Record<Tenant, Tenant> = { a: 'b', b: 'a' };

let stage: AttackStage;
beforeAll(async () => {
  stage = await startAttackStage();
});
afterAll(async () => {
  await stage?.close();
});

/** What is sent as a job to come later, and is there for the other tenant to look for. */
async function known(): Promise<Record<Tenant, Known>> {
  const ids: Record<Tenant, string[]> = { a: [], b: [] };
  const cursors: string[] = [];
  for (const tenant of ['a', 'b'] as const) {
    for (let n = 0; n < 4; n++) {
      const body = JSON.stringify({ text: `${MARKS[tenant]} ${n} of it` });
      const headers = { ...bearer(tenant), ...JSON_TYPE, 'idempotency-key': `${MARKS[tenant]}-${n}` };
      const { text } = await ask(stage.port, { method: 'POST', path: '/v1/jobs/strict', headers, body });
      ids[tenant].push((JSON.parse(text) as { id: string }).id);
    }
    const { text } = await ask(stage.port, { method: 'GET', path: '/v1/jobs?limit=1', headers: bearer(tenant) });
    const { nextCursor } = JSON.parse(text) as { nextCursor?: string | null };
    if (typeof nextCursor === 'string') cursors.push(nextCursor);
    for (const id of ids[tenant]) await stage.fleet.result(id, { tenant, timeoutMs: 60_000 });
  }
  return {
    a: { own: ids.a, foreign: ids.b, cursors },
    b: { own: ids.b, foreign: ids.a, cursors },
  };
}

/** Its clients read errors of another shape. */
const OPENAI = /^\/v1\/(?:responses|chat|models)\b/;

/** What holds of every answer. */
function expectSound({ asked, tenant }: Attack, { status, headers, text }: Answer, foreign: readonly string[]): void {
  const sent = `${asked.method} ${asked.path} ${JSON.stringify(asked.headers)} ${String(asked.body).slice(0, 500)}`;
  const told = { sent, status, text: text.slice(0, 500) };
  expect(status === 503 ? text : '', JSON.stringify(told)).toMatch(/^$|"code":"BUSY"/);
  expect(status < 500 || status === 503, JSON.stringify(told)).toBe(true);
  // Node closes a connection on which headers come that are none.
  if (status === 0) return;
  expect([headers['x-request-id'], told]).toEqual([expect.any(String), told]);
  if (status >= 400 && asked.method !== 'HEAD' && asked.method !== 'OPTIONS')
    expect(JSON.parse(text), JSON.stringify(told)).toMatchObject(
      // Unknown routes are answered as ours are.
      OPENAI.test(asked.path) && text.startsWith('{"error"')
        ? { error: { message: expect.any(String), type: expect.any(String) } }
        : { status, code: expect.any(String) },
    );
  if (tenant === undefined) {
    if (asked.path.startsWith('/v1/') && status < 400) expect(asked.method, JSON.stringify(told)).toBe('OPTIONS');
    for (const mark of Object.values(MARKS)) expect(text.includes(mark), JSON.stringify(told)).toBe(false);
    return;
  }
  expect(text.includes(MARKS[OTHER[tenant]]), JSON.stringify(told)).toBe(false);
  const path = asked.path.split('?', 1)[0] as string;
  // Of a chat that is not there nothing is active, whoever asks: 204, as its clients expect.
  if (path.startsWith('/api/chat/') && status === 204) return;
  if (foreign.some((id) => path.includes(id)) && asked.method !== 'OPTIONS')
    expect(status, JSON.stringify(told)).toBeGreaterThanOrEqual(400);
}

/** What comes of a body: half a character has become a whole one on the way, and -0 is 0. */
function asSent(body: string): unknown {
  return JSON.parse(JSON.stringify(JSON.parse(new TextDecoder().decode(Buffer.from(body)))));
}

/** Tokens, tickets and payloads are in no log. */
function expectQuietLog(tickets: readonly string[]): void {
  const log = stage.log();
  for (const secret of ['TOKEN-MARK', ...Object.values(MARKS), ...tickets]) {
    const at = log.indexOf(secret);
    expect(at === -1 ? '' : log.slice(Math.max(0, at - 300), at + 100)).toBe('');
  }
}

/** The process serves as if nothing had been. */
async function expectServed(): Promise<void> {
  const health = await ask(stage.port, { method: 'GET', path: '/healthz', headers: {} });
  expect(health.status).toBe(200);
  const headers = { ...bearer('b'), ...JSON_TYPE };
  const body = JSON.stringify({ text: `${MARKS.b} after all` });
  const accepted = await ask(stage.port, { method: 'POST', path: '/v1/jobs/strict', headers, body });
  expect(accepted.status).toBe(202);
  const { id } = JSON.parse(accepted.text) as { id: string };
  expect(await stage.fleet.result(id, { tenant: 'b', timeoutMs: 60_000 })).toBe(`${MARKS.b} after all`);
}

describe.each(['a', 'b'] as const)(
  'requests that the document of the API allows and does not allow (tenant %s)',
  (tenant) => {
    it('are answered as what they are; what is accepted can be read, by its tenant alone', async () => {
      const { operations, paths } = await readOperations(stage.port);
      expect(operations.length).toBeGreaterThan(10);
      const { own, foreign, cursors } = (await known())[tenant];
      const accepted = new Map<string, string | undefined>();
      const tickets: string[] = [];
      const statuses = new Map<number, number>();
      await fc.assert(
        fc.asyncProperty(attackOf(operations, paths, tenant, { own, foreign, cursors }), async (attack) => {
          const answer = await ask(stage.port, attack.asked);
          statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
          expectSound(attack, answer, foreign);
          if (answer.status < 200 || answer.status >= 300) return;
          const type = String(answer.headers['content-type']);
          if (!type.startsWith('application/json') || attack.asked.method === 'HEAD') return;
          const { id, ticket } = JSON.parse(answer.text) as { id?: string; ticket?: string };
          if (typeof ticket === 'string') tickets.push(ticket);
          const enqueues =
            attack.asked.method === 'POST' && /^\/v1\/jobs\/(anything|strict)(\?|$)/.test(attack.asked.path);
          if (enqueues && answer.status === 202 && id !== undefined)
            accepted.set(id, typeof attack.asked.body === 'string' ? attack.asked.body : undefined);
        }),
        { seed: SEED, numRuns: FUZZED, endOnFailure: true },
      );
      // The fuzz is worth something: it meets what works, and what is refused.
      expect([...statuses.keys()]).toEqual(expect.arrayContaining([200, 202, 400, 401, 404, 405, 413, 415]));
      expect(accepted.size).toBeGreaterThan(5);
      for (const [id, body] of accepted) {
        const path = `/v1/jobs/${id}`;
        const { status, text } = await ask(stage.port, { method: 'GET', path, headers: bearer(tenant) });
        expect(status).toBe(200);
        const { input } = JSON.parse(text) as { input: unknown };
        if (body !== undefined && body !== '') expect(input).toEqual(asSent(body));
        const others = await ask(stage.port, { method: 'GET', path, headers: bearer(OTHER[tenant]) });
        expect(others.status).toBe(404);
      }
      expectQuietLog(tickets);
      await expectServed();
    }, 90_000);
  },
);

/** What a connection does that means no good. */
const misdeeds = (tenant: Tenant, ids: readonly string[]) => {
  const auth = `authorization: Bearer ${TOKENS[tenant]}\r\n`;
  const get = (path: string, more = '') => `GET ${path} HTTP/1.1\r\nhost: localhost\r\n${auth}${more}\r\n`;
  const post = (more: string) =>
    `POST /v1/jobs/anything HTTP/1.1\r\nhost: localhost\r\n${auth}content-type: application/json\r\n${more}`;
  const text = MARKS[tenant].repeat(2_000);
  return fc.record({
    bytes: fc.oneof(
      fc.nat(300).map((n) => get('/openapi.json').repeat(n)),
      fc.constantFrom(...ids).chain((id) => fc.nat(60).map((n) => get(`/v1/jobs/${id}`).repeat(n))),
      fc.constantFrom(...ids).map((id) => get(`/v1/jobs/${id}/events`, 'accept: text/event-stream\r\n')),
      fc.constant(get(`/v1/events?streams=${ids.join(',')}`, 'accept: text/event-stream\r\n')),
      fc.nat(100_000).map((n) => post(`content-length: 200000\r\n\r\n{"text":"${text.slice(0, n)}`)),
      fc.constant(post('transfer-encoding: chunked\r\n\r\n5\r\n{"a":\r\nzz\r\n')),
      fc.constant(post('transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n')),
      fc.constant(post('content-length: 5\r\ncontent-length: 6\r\n\r\n{"a":1}')),
      fc.constant(post('content-length: -1\r\n\r\n{}')),
      fc.constant(post('expect: 100-continue\r\ncontent-length: 10\r\n\r\n')),
      fc.constant(post('expect: nonsense\r\ncontent-length: 2\r\n\r\n{}')),
      fc.constant(get('/v1/jobs', 'upgrade: websocket\r\nconnection: upgrade\r\n')),
      fc.constant(get('/v1/jobs').replace('host: localhost', 'host: a\r\nhost: b')),
      fc.constant(get('/v1/jobs').replace('host: localhost\r\n', '')),
      fc.constant(get('http://other.example/v1/jobs')),
      fc.constant('CONNECT other.example:443 HTTP/1.1\r\nhost: other.example:443\r\n\r\n'),
      fc.constant(get('/v1/jobs', `x-large: ${'y'.repeat(20_000)}\r\n`)),
      fc.constant(get('/v1/jobs', Array.from({ length: 2_500 }, (_, n) => `x${n}: y\r\n`).join(''))),
      fc.constant('GET /v1/jobs HTTP/1.1\r\nhost: loc'),
      fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
      fc.string({ unit: 'binary-ascii', maxLength: 100 }).map((line) => get('/healthz', `${line}\r\n`)),
    ),
    /** Where its bytes are cut in two. */
    cut: fc.double({ min: 0, max: 1, noNaN: true }),
    reads: fc.boolean(),
    /** It leaves in the middle. */
    leaves: fc.constantFrom<'end' | 'reset' | undefined>('end', 'reset', undefined),
  });
};

describe('connections that pipeline, stall, read nothing, break off or speak no HTTP', () => {
  it('hold nothing once they are gone, and another tenant is served while they are there', async () => {
    const ids = await Promise.all(
      Array.from({ length: 5 }, async () => {
        const input = { n: 1, mark: MARKS.a, filler: 'x'.repeat(100_000) };
        const { id } = await stage.fleet.enqueue('anything', input, { tenant: 'a' });
        await stage.fleet.result(id, { tenant: 'a', timeoutMs: 60_000 });
        return id;
      }),
    );
    const clients = fc.sample(misdeeds('a', ids), { seed: SEED, numRuns: CLIENTS });
    const sockets: Socket[] = [];
    onTestFinished(() => {
      for (const socket of sockets) socket.destroy();
    });
    const sent = clients.map(async ({ bytes, cut, reads, leaves }) => {
      const socket = connect(stage.port, '127.0.0.1');
      sockets.push(socket);
      socket.on('error', () => {});
      if (reads) socket.resume();
      else socket.pause();
      const place = Math.floor(bytes.length * cut);
      await once(socket, 'connect');
      socket.write(bytes.slice(0, place), 'latin1');
      await new Promise(setImmediate);
      if (leaves === undefined) socket.write(bytes.slice(place), 'latin1');
      else if (leaves === 'end') socket.end();
      else socket.resetAndDestroy();
    });
    await Promise.all(sent);
    for (let n = 0; n < 20; n++) await expectServed();
    for (const socket of sockets) socket.destroy();
    await expect.poll(stage.held).toBe(0);
    await expectServed();
    expectQuietLog([]);
  }, 90_000);
});

describe('a client that can write to Redis, and cannot read Postgres', () => {
  it('shows nothing, ends nobody, and runs nothing early or twice', async () => {
    const redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
    const listener = redis.duplicate();
    const queues = [new Queue('counted', { connection: redis, prefix: stage.prefix })];
    onTestFinished(async () => {
      await Promise.all(queues.map((queue) => queue.close()));
      redis.disconnect();
      listener.disconnect();
    });
    // It hears what the fleet says, and says it again, changed.
    const heard: { channel: string; text: string }[] = [];
    listener.on('pmessage', (_pattern, channel: string, text: string) => heard.push({ channel, text }));
    await listener.psubscribe(`*${stage.prefix}*`);
    const later = await stage.fleet.enqueue(counted, { n: -1, mark: MARKS.a }, { tenant: 'a', delayMs: 3_600_000 });
    const jobs = await Promise.all(
      Array.from({ length: 40 }, async (_, n) => {
        const tenant: Tenant = n % 2 === 0 ? 'a' : 'b';
        const { id } = await stage.fleet.enqueue(counted, { n, mark: MARKS[tenant] }, { tenant });
        return { id, n, tenant };
      }),
    );
    const followed = jobs.map(async ({ id, tenant }) => {
      const events: string[] = [];
      for await (const { json } of stage.fleet.follow(id, { tenant })) events.push(json);
      return events;
    });
    const targets = [later.id, ...jobs.map(({ id }) => id)];
    const forgery = fc.record({
      pick: fc.nat(),
      id: fc.constantFrom(...targets),
      other: fc.constantFrom(...targets),
      way: fc.constantFrom('again', 'flipped', 'cut', 'elsewhere', 'cancel', 'left', 'nonsense', 'deliver', 'retell'),
      at: fc.nat(),
      character: fc.constantFrom('0', '9', '{', '"', '\n', '\u0000', 'a'),
      tenant: fc.constantFrom('a', 'b', 'c', '', '\u0000'),
      name: fc.constantFrom('counted', 'strict', 'nothing'),
      value: fc.jsonValue(),
    });
    for (const { pick, id, other, way, at, character, tenant, name, value } of fc.sample(forgery, {
      seed: SEED,
      numRuns: FORGED,
    })) {
      const said = heard[pick % Math.max(1, heard.length)] ?? { channel: `${stage.prefix}:control`, text: '{}' };
      const place = at % (said.text.length + 1);
      const control = (message: unknown) => redis.publish(`${stage.prefix}:control`, JSON.stringify(message));
      switch (way) {
        case 'again':
          await redis.publish(said.channel, said.text);
          break;
        case 'flipped':
          await redis.publish(said.channel, said.text.slice(0, place) + character + said.text.slice(place + 1));
          break;
        case 'cut':
          await redis.publish(said.channel, said.text.slice(0, place));
          break;
        case 'elsewhere':
          await redis.publish(said.channel.replace(/[0-9a-f]{8}-[0-9a-f-]{27}/, id), said.text);
          break;
        case 'retell':
          await redis.publish(said.channel, said.text.replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, other));
          break;
        case 'cancel':
          await control({ cancel: id });
          break;
        case 'left':
          await control({ left: { queue: 'counted', name, id } });
          break;
        case 'nonsense':
          await control(value);
          await redis.publish(said.channel, JSON.stringify(value) ?? '');
          break;
        case 'deliver':
          await queues[0]?.add(name, { oncefleet: 1, key: null, jobId: id, tenant }, { jobId: `forged-${pick}` });
          break;
      }
    }
    for (const { id, n, tenant } of jobs) expect(await stage.fleet.result(id, { tenant, timeoutMs: 60_000 })).toBe(n);
    for (const [i, { id, tenant }] of jobs.entries()) {
      const { events } = await stage.fleet.readEvents(id, { tenant, limit: 1_000 });
      expect(await followed[i]).toEqual(events.map(({ json }) => json));
      expect(runs.get(id)).toBe(1);
    }
    expect(await stage.fleet.get(later.id, { tenant: 'a' })).toMatchObject({ status: 'pending' });
    expect(runs.get(later.id)).toBeUndefined();
    await expectServed();
    expectQuietLog([]);
  }, 90_000);
});
