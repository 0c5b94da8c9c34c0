import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Db } from '../../../src/db/client.ts';
import { createIngestJob, ingestInput } from '../../../src/jobs/ingest/ingest-job.ts';
import { createTestDatabase, type TestDatabase } from '../../helpers/services.ts';
import { openTestDb, runAttempt } from './run-job.ts';

const job = createIngestJob();
const text = (n: number, body = 'text') => ({
  path: `docs/${String(n).padStart(3, '0')}.md`,
  content: `# Document ${n}\n\nSome ${body}.\n`,
});
/** A result in which nothing happened. */
const none = {
  added: 0,
  updated: 0,
  unchanged: 0,
  removed: 0,
  chunks: 0,
  failedCount: 0,
  failed: [],
  warnings: [],
};
const many = (count: number, body?: string) => Array.from({ length: count }, (_, n) => text(n, body));

let database: TestDatabase;
let db: Db;
let collection: string;

beforeAll(async () => {
  database = await createTestDatabase();
  db = openTestDb(database.url);
});
afterAll(async () => {
  await db?.close();
  await database?.drop();
});
beforeEach(() => {
  collection = `c-${crypto.randomUUID()}`;
});

const storedPaths = async (): Promise<string[]> =>
  (
    await db.kysely
      .selectFrom('documents as d')
      .innerJoin('collections as c', 'c.id', 'd.collection_id')
      .select('d.path')
      .where('c.name', '=', collection)
      .orderBy('d.path')
      .execute()
  ).map(({ path }) => path);

const storedChunks = async (): Promise<{ path: string; ordinal: number; heading: string; content: string }[]> =>
  db.kysely
    .selectFrom('chunks as k')
    .innerJoin('documents as d', 'd.id', 'k.document_id')
    .innerJoin('collections as c', 'c.id', 'd.collection_id')
    .select(['d.path', 'k.ordinal', 'k.heading', 'k.content'])
    .where('c.name', '=', collection)
    .orderBy('d.path')
    .orderBy('k.ordinal')
    .execute();

describe('a collection', () => {
  it('gets documents with their chunks, and the stream tells of each', async () => {
    const attempt = runAttempt(db, job, { collection, documents: many(2) });
    expect(await attempt.result).toEqual({ ...none, collection, added: 2, chunks: 2 });
    expect(attempt.events).toEqual([
      { type: 'document', path: 'docs/000.md', status: 'added', chunks: 1 },
      { type: 'progress', done: 1, total: 2, message: 'docs/000.md' },
      { type: 'document', path: 'docs/001.md', status: 'added', chunks: 1 },
      { type: 'progress', done: 2, total: 2, message: 'docs/001.md' },
    ]);
    expect(await storedChunks()).toMatchObject([
      { path: 'docs/000.md', ordinal: 0, heading: 'Document 0', content: 'Some text.' },
      { path: 'docs/001.md', ordinal: 0, heading: 'Document 1', content: 'Some text.' },
    ]);
  });

  it('skips unchanged documents, replaces changed ones, and removes missing ones only when told', async () => {
    await runAttempt(db, job, { collection, documents: many(3) }).result;
    const before = await db.kysely
      .selectFrom('documents')
      .select(['id', 'updated_at'])
      .where('path', '=', 'docs/000.md')
      .orderBy('updated_at', 'desc')
      .executeTakeFirstOrThrow();
    const changed = { path: 'docs/001.md', content: '# New\n\nOne.\n\n## Sub\n\nTwo.\n' };

    expect(await runAttempt(db, job, { collection, documents: [text(0), changed] }).result).toEqual({
      ...none,
      collection,
      updated: 1,
      unchanged: 1,
      chunks: 3,
    });
    expect(await storedPaths()).toEqual(['docs/000.md', 'docs/001.md', 'docs/002.md']);
    expect((await storedChunks()).filter(({ path }) => path === 'docs/001.md').map(({ heading }) => heading)).toEqual([
      'New',
      'New > Sub',
    ]);
    const after = await db.kysely
      .selectFrom('documents')
      .select('updated_at')
      .where('id', '=', before.id)
      .executeTakeFirstOrThrow();
    expect(after.updated_at).toEqual(before.updated_at);

    expect(
      await runAttempt(db, job, { collection, documents: [text(0), changed], removeMissing: true }).result,
    ).toMatchObject({ unchanged: 2, removed: 1 });
    expect(await storedPaths()).toEqual(['docs/000.md', 'docs/001.md']);
    expect(await storedChunks()).toHaveLength(3);
  });

  it('chunks a document anew when another chunker made its chunks', async () => {
    await runAttempt(db, job, { collection, documents: many(1) }).result;
    await db.kysely.updateTable('documents').set({ chunker_version: 0 }).where('path', '=', 'docs/000.md').execute();
    expect(await runAttempt(db, job, { collection, documents: many(1) }).result).toMatchObject({
      updated: 1,
      unchanged: 0,
    });
  });

  it('belongs to one tenant', async () => {
    await runAttempt(db, job, { collection, documents: many(1) }, { tenant: 'a' }).result;
    expect(await runAttempt(db, job, { collection, documents: many(1) }, { tenant: 'b' }).result).toMatchObject({
      added: 1,
    });
  });
});

describe('an attempt after the first', () => {
  it('goes on from the checkpoint and does nothing twice', async () => {
    const jobId = crypto.randomUUID();
    const documents = many(120);
    const stop = new AbortController();
    const first = runAttempt(
      db,
      job,
      { collection, documents },
      {
        jobId,
        signal: stop.signal,
        onEvent: (event) => {
          if (event.type === 'progress' && event.done === 53) stop.abort(new Error('worker gone'));
        },
      },
    );
    await expect(first.result).rejects.toThrow('worker gone');
    expect(first.checkpoints).toMatchObject([
      { next: 50, added: 50 },
      { next: 100, added: 100 },
    ]);
    expect(await storedPaths()).toHaveLength(100);

    const second = runAttempt(db, job, { collection, documents }, { jobId, resumedFrom: first.checkpoints[0] });
    // Fifty documents were written after the checkpoint: found in place, and still counted as this job's.
    expect(await second.result).toEqual({ ...none, collection, added: 120, chunks: 120 });
    expect(second.events.filter(({ type }) => type === 'document').map(({ path }) => path)).toEqual(
      documents.slice(50).map(({ path }) => path),
    );
    expect(second.events.filter(({ type }) => type === 'progress')[0]).toMatchObject({ done: 51, total: 120 });
    const revisions = await db.kysely.selectFrom('documents').select('revision').where('job_id', '=', jobId).execute();
    expect(new Set(revisions.map(({ revision }) => revision))).toEqual(new Set([1]));
  });

  it('still counts what the attempt before it removed', async () => {
    await runAttempt(db, job, { collection, documents: many(4) }).result;
    const jobId = crypto.randomUUID();
    const input = { collection, documents: many(1), removeMissing: true };
    const first = runAttempt(db, job, input, { jobId });
    expect(await first.result).toMatchObject({ removed: 3 });
    expect(await runAttempt(db, job, input, { jobId, resumedFrom: first.checkpoints.at(-1) }).result).toEqual(
      await first.result,
    );
  });

  it('starts over when the checkpoint is not one of this build', async () => {
    const attempt = runAttempt(db, job, { collection, documents: many(2) }, { resumedFrom: { offset: 'x' } });
    expect(await attempt.result).toMatchObject({ added: 2 });
  });
});

it('writes nothing more once the run is aborted', async () => {
  const stop = new AbortController();
  stop.abort(new Error('cancelled'));
  await expect(runAttempt(db, job, { collection, documents: many(3) }, { signal: stop.signal }).result).rejects.toThrow(
    'cancelled',
  );
  expect(await storedPaths()).toEqual([]);
});

it('lets many ingests of one collection run at once, without deadlock or duplicates', async () => {
  const results = await Promise.all(
    Array.from({ length: 6 }, (_, n) => {
      const documents = many(12, `version ${n % 3}`);
      return runAttempt(db, job, {
        collection,
        documents: n % 2 === 0 ? documents : documents.reverse(),
        removeMissing: n > 3,
      }).result;
    }),
  );
  expect(results).toHaveLength(6);
  expect(await storedPaths()).toHaveLength(12);
  const chunks = await storedChunks();
  expect(chunks).toHaveLength(12);
  const counted = await sql<{ chunk_count: number; chunks: number }>`
    select d.chunk_count, count(k.*)::integer as chunks from oncefleet.documents d
    join oncefleet.collections c on c.id = d.collection_id left join oncefleet.chunks k on k.document_id = d.id
    where c.name = ${collection} group by d.id`.execute(db.kysely);
  for (const row of counted.rows) expect(row.chunks).toBe(row.chunk_count);
});

describe('bad input', () => {
  const issuesOf = (documents: unknown, more: object = {}): string[] => {
    const parsed = ingestInput.safeParse({ collection: 'c', documents, ...more });
    return parsed.success ? [] : parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
  };

  it('names the field and the document', () => {
    expect(issuesOf([])[0]).toMatch(/^documents: .*at least one/);
    expect(issuesOf([text(0), { path: 'b.md', content: 'a\0b' }])).toEqual([
      'documents.1.content: "b.md" has a NUL character at offset 1: it is not a text file',
    ]);
    expect(issuesOf([{ path: 'b.md', content: 'ab\ud83d' }])[0]).toMatch(
      /documents\.0\.content: "b\.md" has half of a surrogate pair at offset 2/,
    );
    expect(issuesOf([{ path: '', content: 'x' }])).toEqual(['documents.0.path: is empty']);
    expect(issuesOf([{ path: 'a\nb', content: 'x' }])).toEqual(['documents.0.path: has control characters']);
    expect(issuesOf([{ path: 'ä'.repeat(513), content: 'x' }])).toEqual([
      'documents.0.path: is longer than 1024 bytes',
    ]);
    expect(issuesOf([text(1), text(1)])).toEqual(['documents.1.path: is the path of documents[0] too']);
    expect(issuesOf([text(1)], { collection: ' x' })[0]).toMatch(/^collection: /);
    expect(issuesOf([text(1)], { collection: '' })[0]).toMatch(/^collection: /);
  });

  it('takes the longest path there may be', async () => {
    expect(
      await runAttempt(db, job, { collection, documents: [{ path: 'ä'.repeat(512), content: 'x' }] }).result,
    ).toMatchObject({ added: 1 });
  });
});

describe('a document that cannot be read', () => {
  const bad = { path: 'empty.md', content: '---\ntags: x\n---\n<!-- nothing -->\n' };
  const failure = { path: 'empty.md', code: 'FILE_EMPTY', message: 'has no text in it' };

  it('fails alone: the others are ingested, and stream and result name it', async () => {
    const attempt = runAttempt(db, job, { collection, documents: [text(0), bad, text(1)] });
    expect(await attempt.result).toEqual({
      ...none,
      collection,
      added: 2,
      chunks: 2,
      failedCount: 1,
      failed: [failure],
    });
    expect(await storedPaths()).toEqual(['docs/000.md', 'docs/001.md']);
    expect(attempt.events).toContainEqual({ type: 'document', status: 'failed', ...failure });
    expect(attempt.events.at(-1)).toMatchObject({ type: 'progress', done: 3, total: 3 });
  });

  it('fails the job where no other can be read', async () => {
    const attempt = runAttempt(db, job, { collection, documents: [bad, { path: 'b.txt', content: ' \n' }] });
    await expect(attempt.result).rejects.toMatchObject({
      name: 'NonRetryableError',
      code: 'FILE_EMPTY',
      message: 'No document could be read: "empty.md" has no text in it; "b.txt" has no text in it',
    });
    expect(await storedPaths()).toEqual([]);
  });

  it('leaves the version of it that was there, also when missing documents are removed', async () => {
    await runAttempt(db, job, { collection, documents: [{ ...bad, content: 'text' }, text(0)] }).result;
    const again = runAttempt(db, job, { collection, documents: [bad, text(1)], removeMissing: true });
    expect(await again.result).toMatchObject({ added: 1, removed: 1, failedCount: 1 });
    expect(await storedPaths()).toEqual(['docs/001.md', 'empty.md']);
  });

  it('is named also by an attempt that continues after it', async () => {
    const jobId = crypto.randomUUID();
    const documents = [bad, ...many(120)];
    const stop = new AbortController();
    const first = runAttempt(
      db,
      job,
      { collection, documents },
      {
        jobId,
        signal: stop.signal,
        onEvent: ({ type, done }) => {
          if (type === 'progress' && done === 51) stop.abort(new Error('worker gone'));
        },
      },
    );
    await expect(first.result).rejects.toThrow('worker gone');
    const second = runAttempt(db, job, { collection, documents }, { jobId, resumedFrom: first.checkpoints.at(-1) });
    expect(await second.result).toMatchObject({ added: 120, failedCount: 1, failed: [failure] });
  });

  it('is no document with a title alone: that one is found by its title, and named', async () => {
    const attempt = runAttempt(db, job, {
      collection,
      documents: [{ path: 'a.md', content: '---\ntitle: Alone\n---\n' }],
    });
    expect(await attempt.result).toMatchObject({
      added: 1,
      warnings: [{ path: 'a.md', code: 'FILE_EMPTY', message: 'has no text but its title' }],
    });
    expect(await storedChunks()).toMatchObject([{ heading: 'Alone', content: 'Alone' }]);
  });
});

it('stores and indexes texts of any shape', async () => {
  const documents = [
    { path: 'paragraph.md', content: `${'A sentence of some words. '.repeat(40_000)}` },
    { path: 'word.md', content: 'x'.repeat(1_000_000) },
    { path: 'emoji.txt', content: '😀'.repeat(20_000) },
    {
      path: 'escapes.md',
      content: `it's \\ "quoted" {json} $1 :x 'a'::tsvector <b>&amp;</b> \u2028 \u202e %s ${'\u0001\u001f'}`,
    },
    {
      path: 'deep.md',
      content: `${'> '.repeat(5_000)}quote\n\n${Array.from({ length: 2_000 }, (_, n) => `${'  '.repeat(n % 50)}- ${n}`).join('\n')}`,
    },
    { path: '__proto__', content: 'prototype' },
  ];
  const attempt = runAttempt(db, job, { collection, documents });
  expect(await attempt.result).toMatchObject({ added: documents.length });
  expect(await storedPaths()).toHaveLength(documents.length);
  const stored = await storedChunks();
  expect(
    stored
      .filter(({ path }) => path === 'word.md')
      .map(({ content }) => content)
      .join(''),
  ).toBe('x'.repeat(1_000_000));
  expect(
    stored
      .filter(({ path }) => path === 'emoji.txt')
      .map(({ content }) => content)
      .join(''),
  ).toBe('😀'.repeat(20_000));
  expect(stored.find(({ path }) => path === 'escapes.md')?.content).toBe(documents[3]?.content);
  expect(await runAttempt(db, job, { collection, documents }).result).toMatchObject({ unchanged: documents.length });
});
