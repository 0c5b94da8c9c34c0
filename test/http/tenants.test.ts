/** What tenants send as a key, and what they are not told. */
import { connect } from 'node:net';
import { hostname } from 'node:os';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Harness, startHarness } from './harness.ts';
import { inject } from './requests.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness?.close());

const post = (key: string, text = 'x') =>
  inject(harness.app, {
    method: 'POST',
    url: '/v1/jobs/echo',
    headers: { 'idempotency-key': key, 'content-type': 'application/json' },
    payload: JSON.stringify({ text }),
  });

describe('an Idempotency-Key', () => {
  it.each([
    ['order-1', '"order-1"', 'order-1'],
    ['with blanks', '"with blanks"', 'with blanks'],
    ['a "quoted" word', '"a \\"quoted\\" word"', 'a "quoted" word'],
    ['back\\slash', '"back\\\\slash"', 'back\\slash'],
  ])('%s is one key, bare and as the IETF draft has it', async (bare, quoted, key) => {
    const first = (await post(quoted)).json();
    expect((await post(bare)).json().id).toBe(first.id);
    expect((await post(quoted)).json().id).toBe(first.id);
    const { jobs } = (await inject(harness.app, `/v1/jobs?key=${encodeURIComponent(key)}`)).json();
    expect(jobs.map((job: { id: string; key: string }) => [job.id, job.key])).toEqual([[first.id, key]]);
    expect((await post(quoted, 'other')).json()).toMatchObject({ code: 'KEY_MISMATCH' });
  });

  it.each(['"', '"open', 'closed"', '"a"b"', '"a\\b"', '""a""', '"é"'])(
    '%s is no quoted one, and is taken as it is',
    async (given) => {
      await post(Buffer.from(given).toString('latin1'));
      const { jobs } = (await inject(harness.app, `/v1/jobs?key=${encodeURIComponent(given)}`)).json();
      expect(jobs).toHaveLength(1);
    },
  );

  it('that is empty in its quotes is refused', async () => {
    expect((await post('""')).json()).toMatchObject({ status: 400, code: 'KEY_INVALID' });
  });

  it('that an earlier build took with its quotes stays the key of its job, until that has expired', async () => {
    const handle = await harness.fleet.enqueue('echo', { text: 'x' }, { key: '"early"' });
    await handle.result();
    expect((await post('"early"')).json()).toMatchObject({ id: handle.id, outcome: 'replayed' });
    await sql`update oncefleet.jobs set expires_at = now() - interval '1 second' where id = ${handle.id}`.execute(
      harness.fleet.db,
    );
    const later = (await post('"early"')).json();
    expect(later.outcome).toBe('created');
    expect((await post('early')).json().id).toBe(later.id);
  });

  it.each([
    ['two', ['a', 'b']],
    ['two that are the same', ['a', 'a']],
    ['two of different case', ['a', 'b']],
  ])('sent as %s headers is refused', async (what, keys) => {
    const names = what.includes('case')
      ? ['Idempotency-Key', 'IDEMPOTENCY-KEY']
      : ['Idempotency-Key', 'Idempotency-Key'];
    const body = '{"text":"x"}';
    const text = await new Promise<string>((resolve, reject) => {
      let received = '';
      const socket = connect(harness.port, '127.0.0.1', () => {
        const headers = keys.map((key, i) => `${names[i]}: ${key}`).join('\r\n');
        socket.write(
          `POST /v1/jobs/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n${headers}\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
        );
      });
      socket.on('data', (chunk) => {
        received += chunk.toString();
      });
      socket.on('error', reject);
      socket.on('close', () => resolve(received));
    });
    expect(text).toMatch(/^HTTP\/1\.1 400 /);
    expect(text).toContain('"code":"KEY_INVALID"');
    expect((await inject(harness.app, `/v1/jobs?key=${encodeURIComponent(keys.join(', '))}`)).json().jobs).toEqual([]);
  });
});

describe('a tenant with a token', () => {
  const tokens = new Map([['token-of-tenant-a', 'default']]);
  const headers = { authorization: 'Bearer token-of-tenant-a' };

  it('is not told where its jobs run; whoever reaches a server without tokens is', async () => {
    const { id } = await harness.fleet.enqueue('stepper', { gate: 'hosts', steps: 1 }, { key: 'hosts' });
    const app = harness.another({ tokens });
    const read = async (url: string) => (await inject(app, { url, headers })).body;
    await expect.poll(async () => JSON.parse(await read(`/v1/jobs/${id}`)).status).toBe('running');
    for (const url of [`/v1/jobs/${id}`, '/v1/jobs?key=hosts', `/v1/jobs/${id}/events`]) {
      const body = await read(url);
      expect({ url, told: body.includes(hostname()) || body.includes(`:${process.pid}:`) }).toEqual({
        url,
        told: false,
      });
    }
    const job = JSON.parse(await read(`/v1/jobs/${id}`));
    expect(job.attempts).toEqual([
      expect.objectContaining({ host: '', worker: expect.stringMatching(/^[0-9a-f]{8}$/) }),
    ]);
    expect(job.leaseOwner).toMatch(/^[0-9a-f]{8}\/\d+$/);
    const open = (await inject(harness.app, `/v1/jobs/${id}`)).json();
    expect(open.attempts[0]).toMatchObject({ host: hostname(), worker: expect.stringContaining(hostname()) });
    await harness.fleet.cancel(id);
  });
});
