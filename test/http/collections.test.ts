/** The routes that list, show and delete what has been ingested. */
import type { LightMyRequestResponse } from 'fastify';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { chunkAnswer, chunkPage, collectionPage, documentPage } from '../../src/http/collection-schemas.ts';
import { createBuiltinJobs } from '../../src/jobs/builtin-jobs.ts';
import { type Harness, startHarness } from './harness.ts';
import { inject } from './requests.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness({}, createBuiltinJobs({ model: undefined, answerPaceMs: 0 }));
});
afterAll(() => harness?.close());

const get = (path: string) => inject(harness.app, `/v1/collections${path}`);
const del = (path: string) => inject(harness.app, { method: 'DELETE', url: `/v1/collections${path}` });

async function ingest(collection: string, documents: Record<string, string>, tenant = 'default'): Promise<void> {
  const given = Object.entries(documents).map(([path, content]) => ({ path, content }));
  const handle = await harness.fleet.enqueue('ingest', { collection, documents: given }, { tenant });
  await handle.result();
}

/** All pages, one after another. */
async function walk<T>(path: string, field: string, limit: number): Promise<T[]> {
  const items: T[] = [];
  for (let cursor: string | null = ''; cursor !== null; ) {
    const response = await get(`${path}?limit=${limit}${cursor === '' ? '' : `&cursor=${cursor}`}`);
    const page = response.json() as Record<string, T[]> & { nextCursor: string | null };
    const found = page[field] ?? [];
    expect(found.length).toBeLessThanOrEqual(limit);
    items.push(...found);
    cursor = page.nextCursor;
  }
  return items;
}

function expectProblem(response: LightMyRequestResponse, status: number, code: string): void {
  expect(response.json()).toMatchObject({ status, code });
  expect(response.statusCode).toBe(status);
}

describe('collections', () => {
  it('are listed by name, a page at a time, with their counts', async () => {
    for (const name of ['walk b', 'walk-a', 'walk/c', 'wälk']) await ingest(name, { 'a.md': '# A\n\nText of a.' });
    const { collections, nextCursor } = collectionPage.parse((await get('?limit=100')).json());
    expect(nextCursor).toBe(null);
    expect(collections.find(({ name }) => name === 'walk-a')).toMatchObject({ documents: 1, chunks: 1, bytes: 15 });
    const walked = await walk<{ name: string }>('', 'collections', 1);
    expect(walked.map(({ name }) => name)).toEqual(collections.map(({ name }) => name));
    expect(new Set(walked.map(({ name }) => name)).size).toBe(walked.length);
  });

  it('are shown one by one, whatever is in their name', async () => {
    await ingest('né & b/c?', { 'a.md': 'One text.', 'b.md': 'Another text.' });
    const shown = (await get(`/${encodeURIComponent('né & b/c?')}`)).json();
    expect(shown).toMatchObject({ name: 'né & b/c?', documents: 2, chunks: 2, updatedAt: expect.any(String) });
  });

  it('are deleted with all they have', async () => {
    const many = Object.fromEntries(Array.from({ length: 230 }, (_, i) => [`${i}.md`, `Text ${i}.`]));
    await ingest('large', many);
    expect((await del('/large')).json()).toEqual({ name: 'large', documents: 230 });
    expectProblem(await get('/large'), 404, 'COLLECTION_NOT_FOUND');
    expectProblem(await del('/large'), 404, 'COLLECTION_NOT_FOUND');
    const { rows } = await sql<{ left: number }>`
      select count(*) as left from oncefleet.documents d
      where not exists (select from oncefleet.collections c where c.id = d.collection_id)`.execute(harness.fleet.db);
    expect(rows[0]?.left).toBe(0);
  });
});

describe('documents', () => {
  it('are listed by path, a page at a time', async () => {
    const paths = ['a.md', 'b/c.md', 'b/d é.md', 'z.txt'];
    await ingest('listed', Object.fromEntries(paths.map((path) => [path, `# ${path}\n\nText.`])));
    const { documents } = documentPage.parse((await get('/listed/documents')).json());
    expect(documents.map(({ path }) => path).toSorted()).toEqual(paths);
    expect(documents.find(({ path }) => path === 'a.md')).toMatchObject({
      title: 'a.md',
      revision: 1,
      chunks: 1,
      contentHash: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
    expect(await walk('/listed/documents', 'documents', 1)).toEqual(documents);
  });

  it.each([
    ['plain', 'a.md'],
    ['in a folder', 'b/c d.md'],
    ['with a percent sign', '100%.md'],
    ['with what a URL reserves', 'ü?#&.md'],
    ['deep', `${'long/'.repeat(200)}end.md`],
    ['as long as it may be', 'ü'.repeat(512)],
  ])('are found by their path and by their id: %s', async (_what, path) => {
    await ingest('found', { [path]: 'Some text.' });
    const byPath = (await get(`/found/documents/${encodeURIComponent(path)}`)).json();
    expect(byPath).toMatchObject({ path, bytes: 10 });
    expect((await get(`/found/documents/${byPath.id}`)).json()).toEqual(byPath);
    expect((await get(`/found/documents/${byPath.id.toUpperCase()}`)).json()).toEqual(byPath);
  });

  it('whose path is the id of another are found where no document has that id', async () => {
    const uuid = '00000000-0000-4000-8000-000000000000';
    await ingest('by-uuid', { [uuid]: 'Some text.' });
    expect((await get(`/by-uuid/documents/${uuid}`)).json()).toMatchObject({ path: uuid });
  });

  it('are deleted one by one', async () => {
    await ingest('one-by-one', { 'a.md': 'One text.', 'b.md': 'Another text.' });
    const deleted = (await del('/one-by-one/documents/a.md')).json();
    expect(deleted).toMatchObject({ path: 'a.md', chunks: 1 });
    expectProblem(await del('/one-by-one/documents/a.md'), 404, 'DOCUMENT_NOT_FOUND');
    expectProblem(await get(`/one-by-one/documents/${deleted.id}/chunks`), 404, 'DOCUMENT_NOT_FOUND');
    expect((await get('/one-by-one')).json()).toMatchObject({ documents: 1, chunks: 1 });
  });

  it('are of their collection alone', async () => {
    await ingest('first', { 'a.md': 'One text.' });
    await ingest('second', { 'b.md': 'Another text.' });
    const { id } = (await get('/first/documents/a.md')).json();
    for (const document of [id, 'a.md', '%00', 'nothing'])
      expectProblem(await get(`/second/documents/${document}`), 404, 'DOCUMENT_NOT_FOUND');
    expectProblem(await del(`/second/documents/${id}`), 404, 'DOCUMENT_NOT_FOUND');
  });
});

describe('chunks', () => {
  const text = Array.from({ length: 300 }, (_, i) => `## Part ${i}\n\n${`word${i} `.repeat(250)}`).join('\n\n');

  it('are listed in their order, and no page is larger than its bound', async () => {
    await ingest('chunked', { 'a.md': `# A\n\n${text}` });
    const { chunks: total } = (await get('/chunked/documents/a.md')).json();
    const chunks = await walk<{ ordinal: number; content: string }>('/chunked/documents/a.md/chunks', 'chunks', 7);
    expect(chunks.map(({ ordinal }) => ordinal)).toEqual(Array.from({ length: total }, (_, i) => i));
    const largest = (await get('/chunked/documents/a.md/chunks?limit=100')).json();
    expect(JSON.stringify(largest).length).toBeLessThan(300 * 1024);
    expect(chunkPage.parse(largest).chunks).toEqual(chunks.slice(0, largest.chunks.length));
  });

  it('that are larger than a page are pages by themselves', async () => {
    await ingest('huge', { 'a.md': text.slice(0, 10_000) });
    await sql`
      update oncefleet.chunks c set content = repeat('x', 300000) from oncefleet.documents d
      join oncefleet.collections o on o.id = d.collection_id where d.id = c.document_id and o.name = 'huge'`.execute(
      harness.fleet.db,
    );
    const page = (await get('/huge/documents/a.md/chunks?limit=100')).json();
    expect(page.chunks).toHaveLength(1);
    expect(page.nextCursor).not.toBe(null);
    const { chunks: total } = (await get('/huge/documents/a.md')).json();
    expect(await walk('/huge/documents/a.md/chunks', 'chunks', 100)).toHaveLength(total);
  });

  it('are opened by what a source says of them', async () => {
    await ingest('asked', { 'a.md': '# Widgets\n\nA widget is greased every third Tuesday.' });
    const asked = await harness.fleet.enqueue('answer', { question: 'When is a widget greased?', collection: 'asked' });
    const { sources } = (await asked.result()) as { sources: { documentId: string; ordinal: number }[] };
    const [source] = sources as [{ documentId: string; ordinal: number }];
    const opened = await get(`/asked/documents/${source.documentId}/chunks/${source.ordinal}`);
    expect(chunkAnswer.parse(opened.json())).toMatchObject({
      path: 'a.md',
      title: 'Widgets',
      content: expect.stringContaining('every third Tuesday'),
    });
  });

  it.each(['1', '99', '2147483648'])('that are not there are no document: %s', async (ordinal) => {
    await ingest('short', { 'a.md': 'One text.' });
    const response = await get(`/short/documents/a.md/chunks/${ordinal}`);
    if (ordinal.length > 9) expectProblem(response, 400, 'INPUT_INVALID');
    else expectProblem(response, 404, 'DOCUMENT_NOT_FOUND');
  });
});

it.each(['/a/documents/b/chunks', '/a/documents', ''])('a cursor that no page gave is refused: %s', async (path) => {
  await ingest('a', { b: 'One text.' });
  for (const cursor of ['', '!', 'AA', Buffer.from('a\0b').toString('base64url'), 'ü'])
    expectProblem(await get(`${path}?cursor=${encodeURIComponent(cursor)}`), 400, 'CURSOR_INVALID');
  expectProblem(await get(`${path}?limit=0`), 400, 'INPUT_INVALID');
  expectProblem(await get(`${path}?unknown=1`), 400, 'INPUT_INVALID');
});

describe('the language of a collection', () => {
  const put = (path: string, payload: object) =>
    inject(harness.app, { method: 'PUT', url: `/v1/collections${path}`, payload });

  it('is set before there are documents, and used for them', async () => {
    expect((await put('/german', { language: 'de' })).json()).toMatchObject({
      name: 'german',
      language: 'de',
      documents: 0,
    });
    await ingest('german', { 'a.md': 'Häuser' });
    expect((await get('/german')).json()).toMatchObject({ language: 'de', documents: 1 });
    expect((await put('/german', { language: null })).json()).toMatchObject({ language: null, documents: 1 });
  });

  it.each<[string, object, string]>([
    ['/german', { language: 'xx' }, 'language'],
    ['/german', {}, 'language'],
    ['/german', { language: 'de', more: 1 }, ''],
    [`/${'x'.repeat(101)}`, { language: 'de' }, 'name'],
  ])('%s %j is refused at its field', async (path, payload, field) => {
    const response = await put(path, payload);
    expectProblem(response, 400, 'INPUT_INVALID');
    expect(JSON.stringify(response.json())).toContain(field);
  });
});

it("another tenant's collections are not there", async () => {
  await ingest('private', { 'a.md': 'One text.' }, 'tenant-b');
  const { rows } = await sql<{ id: string }>`
    select d.id from oncefleet.documents d join oncefleet.collections c on c.id = d.collection_id
    where c.tenant = 'tenant-b'`.execute(harness.fleet.db);
  const id = rows[0]?.id;
  expect((await get('?limit=100')).json().collections.map(({ name }: { name: string }) => name)).not.toContain(
    'private',
  );
  for (const path of ['', '/documents', `/documents/${id}`, `/documents/${id}/chunks`, `/documents/${id}/chunks/0`])
    expectProblem(await get(`/private${path}`), 404, 'COLLECTION_NOT_FOUND');
  for (const path of ['', `/documents/${id}`, '/documents/a.md'])
    expectProblem(await del(`/private${path}`), 404, 'COLLECTION_NOT_FOUND');
  // In a collection of its own name, too.
  await ingest('private', { 'b.md': 'Another text.' });
  expectProblem(await get(`/private/documents/${id}`), 404, 'DOCUMENT_NOT_FOUND');
  expectProblem(await get('/private/documents/a.md'), 404, 'DOCUMENT_NOT_FOUND');
  const theirs = await harness.fleet.collections.get('private', { tenant: 'tenant-b' });
  expect(theirs).toMatchObject({ documents: 1, chunks: 1 });
});
