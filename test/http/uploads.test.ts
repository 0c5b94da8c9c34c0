/** The route that takes documents as bytes. */
import { createHash } from 'node:crypto';
import { connect } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createBuiltinJobs } from '../../src/jobs/builtin-jobs.ts';
import { type Harness, startHarness } from './harness.ts';
import { listenLocally } from './requests.ts';

const KIB = 1_024;

type Body = string | FormData;

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness({}, createBuiltinJobs({ model: undefined, answerPaceMs: 0 }));
});
afterAll(() => harness?.close());
afterEach(async () => {
  // The worker's own sweep may be under way, and then this one does nothing.
  await expect.poll(async () => (await harness.fleet.sweep()).busy, { timeout: 30_000 }).toBe(false);
  expect(await storedPaths()).toEqual([]);
});

async function storedPaths(): Promise<string[]> {
  const { rows } = await sql<{ path: string }>`
    select path from oncefleet.uploads order by path`.execute(harness.fleet.db);
  return rows.map(({ path }) => path);
}

interface Sent {
  port?: number;
  key?: string;
  headers?: Record<string, string>;
}

async function send(path: string, body: Body, { port = harness.port, key, headers = {} }: Sent = {}) {
  const response = await fetch(`http://127.0.0.1:${port}/v1/collections/${path}`, {
    method: 'POST',
    body,
    headers: { ...headers, ...(key === undefined ? {} : { 'idempotency-key': key }) },
  });
  return { status: response.status, headers: response.headers, body: (await response.json()) as Answer };
}

function formOf(files: Record<string, string | Uint8Array<ArrayBuffer>>): FormData {
  const form = new FormData();
  for (const [path, content] of Object.entries(files)) form.append('file', new Blob([content]), path);
  return form;
}

// biome-ignore lint/suspicious/noExplicitAny: answers of several routes.
type Answer = Record<string, any>;
const resultOf = (id: string) => harness.fleet.result(id) as Promise<Record<string, unknown>>;

async function listening(
  config: Parameters<Harness['another']>[0],
  options: Parameters<Harness['another']>[1] = {},
): Promise<number> {
  const app: FastifyInstance = harness.another(config, options);
  return listenLocally(app);
}

describe('a document sent as it is', () => {
  it.each([
    ['query', `?path=${encodeURIComponent('a/bé.md')}`, {}],
    ['header', '', { 'x-document-path': Buffer.from('a/bé.md').toString('latin1') }],
  ])('is ingested under the path of its %s', async (name, query, headers) => {
    const content = '# Widgets\n\nA widget is greased every third Tuesday.';
    const { status, body, headers: answered } = await send(`raw-${name}/documents${query}`, content, { headers });
    expect({ status, body }).toMatchObject({ status: 202, body: { outcome: 'created', links: {} } });
    expect(answered.get('location')).toBe(`/v1/jobs/${body.id}`);
    expect(await resultOf(body.id)).toMatchObject({ added: 1, unchanged: 0 });
    const document = await harness.fleet.collections.document(`raw-${name}`, 'a/bé.md');
    const sha256 = createHash('sha256').update(content).digest('hex');
    expect(document).toMatchObject({ title: 'Widgets', bytes: content.length, contentHash: sha256 });
    // Of the bytes, neither the row of the job nor BullMQ has any.
    const job = await harness.fleet.get(body.id);
    expect(job?.input).toMatchObject({ documents: [{ path: 'a/bé.md', upload: sha256 }] });
    const { rows } = await sql<{ row: string }>`
      select to_json(j)::text as row from oncefleet.jobs j where id = ${body.id}`.execute(harness.fleet.db);
    expect(rows[0]?.row).not.toContain('third Tuesday');
    const queued = await harness.fleet.queues.find((queue) => queue.name === 'ingest')?.getJob(body.id);
    expect(JSON.stringify(queued?.data ?? {})).not.toContain('third Tuesday');
  });

  it('of many parts is put together as it was', async () => {
    const content = Array.from({ length: 60_000 }, (_, i) => `${i} of many words.`).join('\n\n');
    const { body } = await send('parts/documents?path=long.txt', content);
    await resultOf(body.id);
    const sha256 = createHash('sha256').update(content).digest('hex');
    expect(await harness.fleet.collections.document('parts', 'long.txt')).toMatchObject({ contentHash: sha256 });
    const { chunks } = await harness.fleet.collections.chunks('parts', 'long.txt', { limit: 1 });
    expect(chunks[0]?.content).toContain('0 of many words');
    const { rows } = await sql<{ last: string }>`
      select content as last from oncefleet.chunks c join oncefleet.documents d on d.id = c.document_id
      where d.path = 'long.txt' order by ordinal desc limit 1`.execute(harness.fleet.db);
    expect(rows[0]?.last).toContain('59999 of many words');
  });

  it('without a path is refused', async () => {
    const { status, body } = await send('raw/documents', 'Some text.');
    expect({ status, body }).toMatchObject({ status: 400, body: { code: 'INPUT_INVALID' } });
    expect(body['issues'][0].path).toBe('documents[0].path');
  });
});

describe('a form', () => {
  it('of several files is one job', async () => {
    const files = { 'a.md': 'One text.', 'b/c d.md': 'Another text.', 'ü日本.txt': 'A third text.' };
    const { status, body } = await send('form/documents', formOf(files));
    expect(status).toBe(202);
    expect(await resultOf(body.id)).toMatchObject({ added: 3 });
    const { documents } = await harness.fleet.collections.documents('form');
    expect(documents.map(({ path }) => path).toSorted()).toEqual(Object.keys(files).toSorted());
  });

  it('removes what is missing from it where it says so', async () => {
    await resultOf((await send('shrinking/documents', formOf({ 'a.md': 'One.', 'b.md': 'Two.' }))).body.id);
    const { body } = await send('shrinking/documents?removeMissing=true', formOf({ 'b.md': 'Two.' }));
    expect(await resultOf(body.id)).toMatchObject({ unchanged: 1, removed: 1 });
  });

  it.each<[string, () => [Body, Record<string, string>], number, string]>([
    ['has no file', () => [new FormData(), {}], 400, 'INPUT_INVALID'],
    ['has no boundary', () => ['x', { 'content-type': 'multipart/form-data' }], 400, 'BODY_INVALID'],
    ['ends in a file', () => [cutForm(80), { 'content-type': 'multipart/form-data; boundary=b' }], 400, 'BODY_INVALID'],
    ['ends in a head', () => [cutForm(30), { 'content-type': 'multipart/form-data; boundary=b' }], 400, 'BODY_INVALID'],
    ['has a field', () => [withField(), {}], 400, 'INPUT_INVALID'],
    ['has a path twice', () => [twice(), {}], 400, 'INPUT_INVALID'],
    ['has a path that is none', () => [formOf({ 'a.md': 'x', ' ': 'y' }), {}], 400, 'INPUT_INVALID'],
    ['is compressed', () => [formOf({ 'a.md': 'x' }), { 'content-encoding': 'gzip' }], 415, 'MEDIA_TYPE_UNSUPPORTED'],
  ])('that %s is refused, and nothing of it stays', async (_what, make, status, code) => {
    const [body, headers] = make();
    const answer = await send('refused/documents', body, { headers });
    expect(answer).toMatchObject({ status, body: { code } });
    expect(await storedPaths()).toEqual([]);
  });

  const whole = '--b\r\nContent-Disposition: form-data; name="f"; filename="a.md"\r\n\r\nSome text.\r\n--b--\r\n';
  const cutForm = (length: number) => whole.slice(0, length);
  const withField = () => {
    const form = formOf({ 'a.md': 'One text.' });
    form.append('title', 'no file');
    return form;
  };
  const twice = () => {
    const form = formOf({ 'a.md': 'One text.' });
    form.append('other', new Blob(['Another text.']), 'a.md');
    return form;
  };
});

describe('under an Idempotency-Key', () => {
  it('the same documents are one job, whose uploads are stored once', async () => {
    const files = { 'a.md': 'One text.', 'b.md': 'Another text.' };
    const first = await send('keyed/documents', formOf(files), { key: 'upload-1' });
    expect(first).toMatchObject({ status: 202, body: { outcome: 'created' } });
    await resultOf(first.body.id);
    const again = await send('keyed/documents', formOf(files), { key: 'upload-1' });
    expect(again).toMatchObject({ status: 200, body: { id: first.body.id, outcome: 'replayed' } });
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(await storedPaths()).toEqual(['a.md', 'b.md']);
  });

  it('other documents are a mismatch, and nothing of them stays', async () => {
    const first = await send('keyed/documents', formOf({ 'a.md': 'One text.' }), { key: 'upload-2' });
    for (const other of [{ 'a.md': 'Another text.' }, { 'b.md': 'One text.' }]) {
      const answer = await send('keyed/documents', formOf(other), { key: 'upload-2' });
      expect(answer).toMatchObject({ status: 422, body: { code: 'KEY_MISMATCH' } });
    }
    await resultOf(first.body.id);
    expect(await storedPaths()).toEqual(['a.md']);
  });

  it('many at once are one job', async () => {
    const files = { 'a.md': 'One text.' };
    const answers = await Promise.all(
      Array.from({ length: 6 }, () => send('keyed/documents', formOf(files), { key: 'upload-3' })),
    );
    expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1);
    expect(answers.filter(({ body }) => body.outcome === 'created')).toHaveLength(1);
    await resultOf(answers[0]?.body.id);
  });

  it('that is none nothing is stored', async () => {
    const answer = await send('keyed/documents', formOf({ 'a.md': 'One text.' }), { key: 'k'.repeat(300) });
    expect(answer).toMatchObject({ status: 400, body: { code: 'KEY_INVALID' } });
  });
});

describe('bounds', () => {
  it.each([
    ['a document', 'documents?path=a.txt', () => 'x'.repeat(5 * KIB)],
    ['documents together', 'documents', () => formOf({ 'a.txt': 'x'.repeat(3 * KIB), 'b.txt': 'y'.repeat(3 * KIB) })],
  ])('%s beyond the largest upload: 413, and nothing stays', async (_what, path, make) => {
    const port = await listening({ uploadLimitBytes: 4 * KIB });
    expect(await send(`large/${path}`, make(), { port })).toMatchObject({
      status: 413,
      body: { code: 'BODY_TOO_LARGE', detail: expect.stringContaining('4096') },
    });
    expect(await storedPaths()).toEqual([]);
    const fits = await send('large/documents?path=a.txt', 'x'.repeat(4 * KIB), { port });
    expect(fits.status).toBe(202);
    await resultOf(fits.body.id);
  });

  it('more than a tenant may have stored: 429, until its jobs have ended', async () => {
    const port = await listening({ uploadStoreBytes: 4 * KIB });
    const first = await send('full/documents?path=a.txt', 'x'.repeat(3 * KIB), { port });
    expect(first.status).toBe(202);
    const second = () => send('full/documents?path=b.txt', 'y'.repeat(3 * KIB), { port });
    expect(await second()).toMatchObject({ status: 429, body: { code: 'UPLOADS_FULL' } });
    expect(await storedPaths()).toEqual(['a.txt']);
    await resultOf(first.body.id);
    await harness.fleet.sweep();
    const later = await second();
    expect(later.status).toBe(202);
    await resultOf(later.body.id);
  });

  it('a body that stalls: 408, and nothing stays', async () => {
    const port = await listening({}, { limits: { bodyStallMs: 200 } });
    const { answer } = await sendPart(port, 20);
    expect(await answer).toMatch(/^HTTP\/1\.1 408 [\s\S]*REQUEST_STALLED/);
    expect(await storedPaths()).toEqual([]);
  });

  it('a client that leaves in the middle: nothing stays', async () => {
    const { leave } = await sendPart(harness.port, 600 * KIB);
    // A part of it is stored by then.
    await expect.poll(storedPaths).toEqual(['cut.txt']);
    leave();
    await expect.poll(storedPaths).toEqual([]);
  });

  /** Announces a megabyte and sends the beginning of it. */
  async function sendPart(port: number, bytes: number) {
    const socket = connect(port, '127.0.0.1');
    let received = '';
    socket.on('data', (chunk) => {
      received += chunk;
    });
    const answer = new Promise<string>((resolve) => {
      socket.on('data', () => {
        if (received.includes('requestId')) resolve(received);
      });
      socket.on('error', () => resolve(received));
      socket.on('close', () => resolve(received));
    });
    socket.write(
      `POST /v1/collections/cut/documents?path=cut.txt HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: ${KIB * KIB}\r\n\r\n`,
    );
    socket.write('x'.repeat(bytes));
    void answer.then(() => socket.destroy());
    return { answer, leave: () => socket.destroy() };
  }
});

describe('tenants', () => {
  it('more uploads at once than a tenant may have: 503, and others are served', async () => {
    const port = await listening({
      tokens: new Map([
        ['token-of-tenant-a-1', 'a'],
        ['token-of-tenant-b-1', 'b'],
      ]),
    });
    const gate = Promise.withResolvers<void>();
    const add = (path: string, body: AsyncIterable<Uint8Array>) =>
      harness.fleet.collections.add('slow', [{ path, body }], { tenant: 'a' });
    const slow = Array.from({ length: 8 }, (_, i) =>
      add(
        `${i}.txt`,
        (async function* () {
          yield Buffer.from(`Text ${i}.`);
          await gate.promise;
        })(),
      ),
    );
    const one = (token: string) =>
      send('slow/documents?path=x.txt', 'One more.', { port, headers: { authorization: `Bearer ${token}` } });
    expect(await one('token-of-tenant-a-1')).toMatchObject({ status: 503, body: { code: 'BUSY' } });
    const other = await one('token-of-tenant-b-1');
    expect(other.status).toBe(202);
    gate.resolve();
    const handles = await Promise.all(slow);
    await Promise.all([
      ...handles.map((handle) => handle.result()),
      harness.fleet.result(other.body.id, { tenant: 'b' }),
    ]);
    const after = await one('token-of-tenant-a-1');
    expect(after.status).toBe(202);
    await harness.fleet.result(after.body.id, { tenant: 'a' });
  });

  it('read no uploads of others, nor of other jobs, whatever hash they name', async () => {
    const content = 'A secret text.';
    const upload = createHash('sha256').update(content).digest('hex');
    const { body } = await send('mine/documents?path=a.md', content);
    await resultOf(body.id);
    expect(await storedPaths()).toEqual(['a.md']);
    for (const tenant of ['tenant-b', 'default']) {
      const input = { collection: 'theirs', documents: [{ path: 'a.md', upload }] };
      const handle = await harness.fleet.enqueue('ingest', input, { tenant });
      await expect(handle.result()).rejects.toMatchObject({ code: 'FILE_UNREADABLE' });
    }
  });
});
