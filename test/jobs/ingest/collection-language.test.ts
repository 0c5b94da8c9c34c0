import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Db } from '../../../src/db/client.ts';
import { findCollection, setCollectionLanguage } from '../../../src/db/documents.ts';
import { missingWords } from '../../../src/jobs/answer/extract.ts';
import { retrieve } from '../../../src/jobs/answer/retrieval.ts';
import { createIngestJob } from '../../../src/jobs/ingest/ingest-job.ts';
import { LANGUAGES, type Language } from '../../../src/search/language.ts';
import { createTestDatabase, type TestDatabase } from '../../helpers/services.ts';
import { openTestDb, runAttempt } from './run-job.ts';

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

const set = (language: Language | null) =>
  db.kysely.transaction().execute((trx) => setCollectionLanguage(trx, 'default', collection, language));
const ingest = (documents: { path: string; content: string }[]) =>
  runAttempt(db, createIngestJob(), { collection, documents }).result;
const languages = async () =>
  (
    await db.kysely
      .selectFrom('documents as d')
      .innerJoin('collections as c', 'c.id', 'd.collection_id')
      .select('d.language')
      .where('c.name', '=', collection)
      .orderBy('d.path')
      .execute()
  ).map(({ language }) => language);
const idOf = async () => (await findCollection(db.kysely, 'default', collection))?.id as string;
const find = async (question: string) =>
  (await retrieve(db.kysely, { collectionId: await idOf(), question, limit: 5 })).chunks.map(({ path }) => path);

const ENGLISH =
  'The gardener waters the roses every morning, and in the evening he closes the gate behind the houses of the village.';
const SHORT = { path: 'a.md', content: 'Häuser' };

describe("a collection's language", () => {
  it('is that of its documents, whatever they look like', async () => {
    await set('de');
    await ingest([SHORT, { path: 'b.md', content: ENGLISH }]);
    expect(await languages()).toEqual(['de', 'de']);
    expect(await find('Haus')).toEqual(['a.md']);
  });

  it('takes effect on documents that are there when they are ingested again, once', async () => {
    await ingest([SHORT]);
    expect(await languages()).toEqual(['en']);
    expect(await find('Haus')).toEqual([]);
    await set('de');
    expect(await ingest([SHORT])).toMatchObject({ updated: 1 });
    expect(await languages()).toEqual(['de']);
    expect(await find('Haus')).toEqual(['a.md']);
    expect(await ingest([SHORT])).toMatchObject({ unchanged: 1 });
  });

  it('that is taken back is detected again', async () => {
    await set('de');
    await ingest([{ path: 'b.md', content: ENGLISH }]);
    await set(null);
    expect(await ingest([{ path: 'b.md', content: ENGLISH }])).toMatchObject({ updated: 1 });
    expect(await languages()).toEqual(['en']);
  });

  it('set again to what it is changes nothing', async () => {
    await ingest([{ path: 'b.md', content: ENGLISH }]);
    await set(null);
    expect(await ingest([{ path: 'b.md', content: ENGLISH }])).toMatchObject({ unchanged: 1 });
  });
});

/** A text, and a question about it with other forms of its words. */
const TEXTS: Partial<Record<Language, string>> = {
  ar: 'الكتب في المكتبة الكبيرة|أين الكتاب في مكتبة',
  de: 'Die Häuser stehen an den Flüssen.|Welches Haus steht am Fluss?',
  el: 'Τα βιβλία είναι στη βιβλιοθήκη.|Πού είναι το βιβλίο της βιβλιοθήκης;',
  es: 'Los jardines tienen flores blancas.|¿Qué jardín tiene una flor blanca?',
  fi: 'Talot ovat järvien rannoilla.|Missä talossa on järven ranta?',
  fr: 'Les jardins ont des fleurs blanches.|Quel jardin a une fleur blanche ?',
  hi: 'किताबें पुस्तकालय में हैं।|किताब पुस्तकालय में कहाँ है?',
  ja: '図書館で本を読みます。|図書館の本はどこですか',
  ko: '도서관에서 책을 읽습니다.|도서관의 책은 어디에 있습니까',
  ru: 'Книги стоят в библиотеках города.|Какая книга стоит в библиотеке?',
  th: 'หนังสืออยู่ในห้องสมุด|หนังสือในห้องสมุดอยู่ที่ไหน',
  tr: 'Kitaplar kütüphanelerde duruyor.|Kitap kütüphanede nerede duruyor?',
  zh: '图书馆里有很多书。|图书馆的书在哪里',
};

describe('"never mentions", in every language that there is', () => {
  it.each(LANGUAGES)(
    '%s: a word as it is written in the text is never said to be missing, one that is nowhere is',
    async (language) => {
      const given = TEXTS[language] ?? 'Volapükische Wörter STEHEN hier.|volapükische wörter stehen';
      const [text, question] = given.split('|') as [string, string];
      await set(language);
      await ingest([{ path: 'a.md', content: `${text} xylophon2` }]);
      const collectionId = await idOf();
      const missing = async (asked: string) => {
        const retrieval = await retrieve(db.kysely, { collectionId, question: asked, limit: 3 });
        return missingWords(db.kysely, { question: asked, collectionId, retrieval });
      };
      const words = text.match(/[\p{L}\p{M}\p{N}]+/gu) ?? [];
      for (const word of words) expect(await missing(`${word} ${word.toUpperCase()}`), word).toEqual([]);
      expect(await missing(text)).toEqual([]);
      expect(await missing(`${question} qwertzuiop`)).toContain('qwertzuiop');
      const said = await missing(question);
      for (const word of said) expect(text.normalize('NFKC').toLowerCase(), word).not.toContain(word.toLowerCase());
    },
  );
});
