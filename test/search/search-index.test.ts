import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { down, up } from '../../migrations/0012_search_parts.ts';
import type { Db } from '../../src/db/client.ts';
import { createIngestJob } from '../../src/jobs/ingest/ingest-job.ts';
import { chooseParts, mergeParts } from '../../src/search/merge.ts';
import { builtInRetriever, type Found } from '../../src/search/retriever.ts';
import { createTestDatabase, type TestDatabase } from '../helpers/services.ts';
import { openTestDb, runAttempt } from '../jobs/ingest/run-job.ts';

const job = createIngestJob();
/** No language stems or drops what has a digit. */
const WORDS = ['apple1', 'berry2', 'cherry3', 'damson4', 'elder5', 'fig6', 'grape7'];

let database: TestDatabase;
let db: Db;

beforeAll(async () => {
  database = await createTestDatabase();
  db = openTestDb(database.url);
});
afterAll(async () => {
  await db?.close();
  await database?.drop();
});

const collectionId = async (name: string, tenant = 'default'): Promise<string> =>
  (
    await db.kysely
      .selectFrom('collections')
      .select('id')
      .where('name', '=', name)
      .where('tenant', '=', tenant)
      .executeTakeFirstOrThrow()
  ).id;

const search = (id: string, words: readonly string[], limit = 1_000): Promise<Found> =>
  builtInRetriever.find(db.kysely, {
    collectionId: id,
    limit,
    terms: async (analyse) => (await analyse(words.join(' '))).map(({ name }) => ({ lexeme: name, importance: 1 })),
  });

/** Which chunks have one of the words, found in the texts. */
async function scanTexts(id: string): Promise<string[]> {
  const { rows } = await sql<{ place: string }>`
    select d.path || ' ' || k.ordinal as place
    from oncefleet.documents d join oncefleet.chunks k on k.document_id = d.id
    where d.collection_id = ${id} and to_tsvector('english', k.heading || ' ' || k.content) @@ to_tsquery('english', ${WORDS.join(' | ')})`.execute(
    db.kysely,
  );
  return rows.map(({ place }) => place).sort();
}

const placesOf = ({ chunks }: Found): string[] => chunks.map(({ path, ordinal }) => `${path} ${ordinal}`).sort();

/** How many chunks have each word, counted in the texts. */
async function countTexts(id: string): Promise<number[]> {
  const { rows } = await sql<{ count: number }>`
    select count(k.*) as count from unnest(${WORDS}::text[]) with ordinality as w (word, n)
    left join (oncefleet.documents d join oncefleet.chunks k on k.document_id = d.id)
      on d.collection_id = ${id} and to_tsvector('english', k.heading || ' ' || k.content) @@ to_tsquery('english', word)
    group by n order by n`.execute(db.kysely);
  return rows.map(({ count }) => Number(count));
}

type Step =
  | { kind: 'ingest' | 'crash'; documents: { path: number; words: number[][] }[]; removeMissing: boolean }
  | { kind: 'delete'; path: number }
  | { kind: 'merge' };

const documents = fc.uniqueArray(
  fc.record({
    path: fc.nat(8),
    words: fc.array(fc.array(fc.nat(WORDS.length - 1), { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 4 }),
  }),
  { selector: ({ path }) => path, minLength: 1, maxLength: 4 },
);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('ingest' as const), documents, removeMissing: fc.boolean() }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('crash' as const), documents, removeMissing: fc.constant(false) }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('delete' as const), path: fc.nat(8) }) },
  { weight: 1, arbitrary: fc.constant({ kind: 'merge' as const }) },
);

const toInput = (
  collection: string,
  { documents: given, removeMissing }: Extract<Step, { removeMissing: boolean }>,
) => ({
  collection,
  removeMissing,
  documents: given.map(({ path, words }) => ({
    path: `${path}.md`,
    content: words.map((chunk, n) => `# ${WORDS[n]}\n\n${chunk.map((word) => WORDS[word]).join(' ')}\n`).join('\n'),
  })),
});

async function take(collection: string, given: Step): Promise<void> {
  if (given.kind === 'ingest') await runAttempt(db, job, toInput(collection, given)).result;
  else if (given.kind === 'crash') {
    await runAttempt(db, job, toInput(collection, given), { crashInTransaction: true }).result.catch(() => undefined);
  } else if (given.kind === 'delete') {
    await sql`delete from oncefleet.documents where path = ${`${given.path}.md`}
      and collection_id in (select id from oncefleet.collections where name = ${collection})`.execute(db.kysely);
  } else {
    const found = await db.kysely
      .selectFrom('collections')
      .select('id')
      .where('name', '=', collection)
      .executeTakeFirst();
    if (found !== undefined) await mergeParts(db.kysely, found.id);
  }
}

describe('the statistics of a collection', () => {
  it('equal a count of its texts after any ingests, replacements, deletes and crashes', async () => {
    let run = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 4, maxLength: 24, size: 'max' }), async (steps) => {
        const collection = `property-${run++}`;
        const other: Step = {
          kind: 'ingest',
          documents: [{ path: 1, words: [[0, 1, 2, 3, 4, 5, 6]] }],
          removeMissing: false,
        };
        await take(`${collection}-other`, other);
        await take(collection, other);
        for (const each of steps) await take(collection, each);
        const id = await collectionId(collection);
        const found = await search(id, WORDS);
        expect(found.terms.map(({ matches }) => matches)).toEqual(await countTexts(id));
        expect(placesOf(found)).toEqual(await scanTexts(id));
      }),
      { numRuns: 25 },
    );
  }, 120_000);
});

describe('a merge', () => {
  const ingest = (collection: string, n: number, words: string) =>
    runAttempt(db, job, { collection, documents: [{ path: `${n}.md`, content: `# ${WORDS[n % 7]}\n\n${words}\n` }] })
      .result;
  const countParts = async (id: string): Promise<number> =>
    Number(
      (
        await sql<{ n: number }>`select count(*) as n from oncefleet.search_parts where collection_id = ${id}`.execute(
          db.kysely,
        )
      ).rows[0]?.n,
    );

  it('keeps parts few, and changes nothing that a search finds', async () => {
    const collection = 'merged';
    for (let n = 0; n < 7; n++) await ingest(collection, n, `${WORDS[n]} and ${WORDS[(n * 3) % 7]}`);
    const id = await collectionId(collection);
    expect(await countParts(id)).toBe(7);
    await ingest(collection, 0, 'fig6 fig6 grape7');
    expect(await countParts(id)).toBe(1);
    const { rows } = await sql`select from oncefleet.search_removals where collection_id = ${id}`.execute(db.kysely);
    expect(rows).toHaveLength(0);
    const found = await search(id, WORDS);
    expect(found.terms.map(({ matches }) => matches)).toEqual(await countTexts(id));
    expect(found.chunks).toHaveLength(7);
  });

  it('leaves alone what another process is merging', async () => {
    const collection = 'contended';
    for (let n = 0; n < 7; n++) await ingest(collection, n, 'plum');
    const id = await collectionId(collection);
    await db.kysely.transaction().execute(async (trx) => {
      await sql`select from oncefleet.search_parts where collection_id = ${id} for update`.execute(trx);
      await ingest(collection, 7, 'plum');
      expect(await countParts(id)).toBe(8);
    });
    await mergeParts(db.kysely, id);
    expect(await countParts(id)).toBe(1);
  });

  it('takes eight parts of about one size, all where many documents are gone, and none beyond half a million chunks', () => {
    const parts = (...chunkCounts: number[]) =>
      chunkCounts.map((chunkCount, id) => ({ id, chunkCount, documentCount: chunkCount }));
    expect(chooseParts(parts(1, 1, 1, 1, 1, 1, 1), 0)).toEqual([]);
    expect(chooseParts(parts(9_000, 1, 2, 3, 4, 5, 6, 7, 1), 0)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(chooseParts(parts(600, 500), 400)).toEqual([0, 1]);
    expect(chooseParts(parts(600, 500), 150)).toEqual([]);
    expect(chooseParts(parts(...Array.from({ length: 9 }, () => 600_000)), 0)).toEqual([]);
  });
});

it('a search that has begun finds what it began with, whatever is merged and replaced meanwhile', async () => {
  const collection = 'snapshot';
  const documents = (word: string) => [{ path: 'a.md', content: `# A\n\n${word} quince9\n` }];
  await runAttempt(db, job, { collection, documents: documents('first') }).result;
  const id = await collectionId(collection);
  const found = await builtInRetriever.find(db.kysely, {
    collectionId: id,
    limit: 10,
    terms: async () => {
      await runAttempt(db, job, { collection, documents: documents('second') }).result;
      return [{ lexeme: 'quince9', importance: 1 }];
    },
  });
  expect(found.chunks.map(({ content }) => content)).toEqual(['first quince9']);
  expect((await search(id, ['quince9'])).chunks.map(({ content }) => content)).toEqual(['second quince9']);
});

it('counts nothing of other collections and tenants', async () => {
  const documents = [{ path: 'a.md', content: 'medlar' }];
  await runAttempt(db, job, { collection: 'apart', documents }, { tenant: 'a' }).result;
  for (let n = 0; n < 3; n++)
    await runAttempt(
      db,
      job,
      { collection: `apart-${n}`, documents: [...documents, { path: 'b.md', content: 'medlar tree' }] },
      { tenant: 'b' },
    ).result;
  const found = await search(await collectionId('apart', 'a'), ['medlar', 'tree']);
  expect(found.terms).toMatchObject([{ matches: 1 }, { matches: 0 }]);
  expect(found.chunks).toHaveLength(1);
});

it('ranks a rare word above a common one, and a short chunk above a long one', async () => {
  const content = (text: string) => `${text}\n`;
  await runAttempt(db, job, {
    collection: 'ranked',
    documents: [
      { path: 'rare.txt', content: content('walnut oil') },
      { path: 'long.txt', content: content(`hazel ${'stone '.repeat(100)}`) },
      { path: 'short.txt', content: content('hazel bush') },
      { path: 'other.txt', content: content('hazel wood') },
    ],
  }).result;
  const { chunks } = await search(await collectionId('ranked'), ['hazel', 'walnut']);
  expect(chunks.map(({ path }) => path)).toEqual([
    'rare.txt',
    expect.stringMatching(/short|other/),
    expect.stringMatching(/short|other/),
    'long.txt',
  ]);
});

it('what was removed takes no place among the best', async () => {
  const document = (path: string, content: string) => ({ path, content: `${content}\n` });
  await runAttempt(db, job, {
    collection: 'removed',
    documents: [document('best.txt', 'walnut walnut'), document('next.txt', 'walnut and other oils')],
  }).result;
  const id = await collectionId('removed');
  const first = async () => (await search(id, ['walnut'], 1)).chunks.map(({ path }) => path);
  expect(await first()).toEqual(['best.txt']);
  await sql`delete from oncefleet.documents where collection_id = ${id} and path = 'best.txt'`.execute(db.kysely);
  expect(await first()).toEqual(['next.txt']);
});

it('a collection of an earlier release is searchable after the migration, and analysed anew by its next ingest', async () => {
  const old = await createTestDatabase();
  const oldDb = openTestDb(old.url);
  try {
    const documents = Array.from({ length: 450 }, (_, n) => ({
      path: `${n}.md`,
      content: `# It's ${WORDS[n % 7]}\n\nthe weather in the garden was about ${WORDS[n % 5]} and number${n}\n\n## Back\\slash\n\nand they were always running through the woods\n`,
    }));
    await runAttempt(oldDb, job, { collection: 'old', documents }).result;
    const { id } = await oldDb.kysely.selectFrom('collections').select('id').executeTakeFirstOrThrow();
    const ask = (words: string) =>
      builtInRetriever.find(oldDb.kysely, {
        collectionId: id,
        limit: 20,
        terms: async (analyse) => (await analyse(words)).map(({ name }) => ({ lexeme: name, importance: 1 })),
      });
    const before = [await ask('number77'), await ask('running weather'), await ask('slash it')];
    const migrateBy = (step: typeof up) =>
      oldDb.kysely.transaction().execute(async (trx) => {
        await sql`set local search_path to oncefleet`.execute(trx);
        await step(trx.withoutPlugins());
      });
    await migrateBy(down);
    await migrateBy(up);
    const after = [await ask('number77'), await ask('running weather'), await ask('slash it')];
    expect(after.map(({ chunks }) => chunks.map(({ score }) => score))).toEqual(
      before.map(({ chunks }) => chunks.map(({ score }) => score)),
    );
    expect(after.map(({ terms }) => terms)).toEqual(before.map(({ terms }) => terms));
    expect(await runAttempt(oldDb, job, { collection: 'old', documents: documents.slice(0, 3) }).result).toMatchObject({
      updated: 3,
    });
    expect((await ask('running weather')).terms).toEqual(before[1]?.terms);
  } finally {
    await oldDb.close();
    await old.drop();
  }
}, 60_000);
