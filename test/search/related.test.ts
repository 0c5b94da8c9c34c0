/** Words that are written like one of the question are searched for as well, and count less. */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Db } from '../../src/db/client.ts';
import { findParts, insertBlocks, insertPart } from '../../src/db/search.ts';
import { extractAnswer } from '../../src/jobs/answer/extract.ts';
import { retrieve } from '../../src/jobs/answer/retrieval.ts';
import { createIngestJob } from '../../src/jobs/ingest/ingest-job.ts';
import type { Language } from '../../src/search/language.ts';
import { buildPart } from '../../src/search/part.ts';
import { termOf } from '../../src/search/postings.ts';
import { backwardsTerm, findFamilies } from '../../src/search/related.ts';
import { createTestDatabase, type TestDatabase } from '../helpers/services.ts';
import { openTestDb, runAttempt } from '../jobs/ingest/run-job.ts';

let database: TestDatabase;
let db: Db;
let made = 0;

beforeAll(async () => {
  database = await createTestDatabase();
  db = openTestDb(database.url);
});
afterAll(async () => {
  await db?.close();
  await database?.drop();
});

async function newCollection(): Promise<string> {
  const { id } = await db.kysely
    .insertInto('collections')
    .values({ tenant: 'default', name: `related-${made++}` })
    .returning('id')
    .executeTakeFirstOrThrow();
  return id;
}

/** A part whose chunks have these words. */
async function addPart(collectionId: string, language: Language, chunks: readonly (readonly string[])[]) {
  const analysed = chunks.map((words) => {
    const terms = new Map<string, number>();
    for (const word of words) {
      for (const term of [termOf(word), backwardsTerm(word, language)])
        if (term !== undefined) terms.set(term, (terms.get(term) ?? 0) + 1);
    }
    return { terms, words: words.length };
  });
  const { row, blocks } = buildPart([{ number: made++, language, chunks: analysed }]);
  await db.kysely.transaction().execute(async (trx) => {
    await insertBlocks(trx, await insertPart(trx, collectionId, row), blocks);
  });
}

/** The family of a word: its lexemes, and of each part the chunks with how often any of them occurs there. */
async function familyOf(collectionId: string, word: string, languages: readonly Language[]) {
  const parts = await findParts(db.kysely, collectionId);
  const ids = parts.map(({ id }) => id);
  const [family] = await findFamilies(db.kysely, ids, [word], languages);
  if (family === undefined) return undefined;
  return {
    lexemes: [...family.lexemes].sort(),
    chunks: family.lists.map((list) => [...(list?.numbers ?? [])].map((number, at) => [number, list?.frequencies[at]])),
  };
}

/** The same by its definition. */
function isRelated(word: string, other: string, compounds: boolean): boolean {
  if (word === other || word.length < 4) return false;
  if (other.startsWith(word.slice(0, Math.max(4, Math.ceil(0.7 * word.length))))) return true;
  if (!compounds) return false;
  if (word.length >= 5 && other.length >= 8 && other.endsWith(word)) return true;
  const isPart = other.length >= 5 && word.length - other.length >= 3;
  return isPart && (word.startsWith(other) || word.endsWith(other));
}

describe('the words written like one', () => {
  // Few syllables make many relatives.
  const word = fc.string({ unit: fc.constantFrom('an', 'ber', 'ßo', 'ядр'), minLength: 1, maxLength: 5 });
  const chunk = fc.array(word, { minLength: 1, maxLength: 30 });

  it.each(['de', 'fr'] as const)('are those that the definition says, in any parts (%s)', async (language) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(chunk, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 3 }),
        word,
        async (parts, asked) => {
          const id = await newCollection();
          for (const chunks of parts) await addPart(id, language, chunks);
          const related = (other: string) => isRelated(asked, other, language === 'de');
          const lexemes = [...new Set(parts.flat(2).filter(related))].sort();
          const chunks = parts.map((own) =>
            own.flatMap((words, number) => {
              const count = words.filter(related).length;
              return count === 0 ? [] : [[number, count]];
            }),
          );
          expect(await familyOf(id, asked, [language])).toEqual(lexemes.length === 0 ? undefined : { lexemes, chunks });
        },
      ),
      { numRuns: 100 },
    );
  });

  it('are none where so many are that they say nothing', async () => {
    const id = await newCollection();
    const letters = 'abcdefghijklmnopqrstuvwxyz';
    const words = [...letters].flatMap((a) =>
      [...letters].flatMap((b) => [...letters].map((c) => `stamm${a}${b}${c}`)),
    );
    await addPart(id, 'fr', [[...words, 'stammen', 'andere', 'anders']]);
    expect(await familyOf(id, 'stammen', ['fr'])).toBeUndefined();
    expect(await familyOf(id, 'anders', ['fr'])).toEqual({ lexemes: ['andere'], chunks: [[[0, 1]]] });
  });

  it.each(['日本語日本', '12345', 'a1b2c3d4', 'foo-bar-baz', 'x'.repeat(41)])('are none of %s', async (other) => {
    const id = await newCollection();
    await addPart(id, 'de', [[`${other}er`, other]]);
    expect(await familyOf(id, other, ['de'])).toBeUndefined();
  });
});

describe('a question', () => {
  const job = createIngestJob();
  const RULES = [
    '# Regeln',
    '',
    '## Rücktritt',
    '',
    'Wer die Reiserücktrittsversicherung hat, bekommt die Kosten der Absage zurück.',
    '',
    '## Gepäck',
    '',
    'Verlorene Koffer werden bis zu zweitausend Euro ersetzt.',
    '',
    '## Arbeitszeit',
    '',
    'Die Kernzeit im Büro dauert von neun bis fünfzehn Uhr.',
    '',
  ].join('\n');
  const CONDITIONS = [
    '# Conditions',
    '',
    '## Annulation',
    '',
    "Les voyageurs sont remboursés jusqu'à la veille du départ.",
    '',
    '## Bagages',
    '',
    'Les valises perdues sont remplacées par la compagnie.',
    '',
  ].join('\n');

  async function ask(content: string, question: string, language: Language) {
    const collection = `asked-${made++}`;
    await runAttempt(db, job, { collection, language, documents: [{ path: 'a.md', content }] }).result;
    const { id } = await db.kysely
      .selectFrom('collections')
      .select('id')
      .where('name', '=', collection)
      .executeTakeFirstOrThrow();
    const retrieval = await retrieve(db.kysely, { collectionId: id, question, limit: 3 });
    const answer = await extractAnswer(db.kysely, { question, collection, collectionId: id, retrieval });
    return { retrieval, answer };
  }

  it.each([
    ['de', RULES, 'Was zahlt die Versicherung?', 'Reiserücktrittsversicherung'],
    ['de', RULES, 'Gepäckversicherung', 'Verlorene Koffer'],
    ['fr', CONDITIONS, 'Et le voyage ?', 'Les voyageurs'],
  ] as const)(
    'finds and quotes a passage by words written alike (%s, %#)',
    async (language, content, question, found) => {
      const { retrieval, answer } = await ask(content, question, language);
      expect(retrieval.chunks[0]?.content).toContain(found);
      expect(answer.text).toContain(found);
    },
  );

  it('has a passage with its own word before one with words written alike', async () => {
    const content = [
      '# A',
      '',
      '## Eins',
      '',
      'Versicherungsnehmer Versicherungsnehmer Versicherungsschutz.',
      '',
      '## Zwei',
      '',
      'Die Versicherung gilt.',
      '',
    ].join('\n');
    const { retrieval } = await ask(content, 'Versicherung', 'de');
    expect(retrieval.chunks.map(({ heading }) => heading)).toEqual(['A > Zwei', 'A > Eins']);
  });

  it('is still told which of its words no text has', async () => {
    const { retrieval } = await ask(CONDITIONS, 'voyage', 'fr');
    expect(retrieval.unknown.map(({ name }) => name)).toEqual(['voyag']);
  });
});
