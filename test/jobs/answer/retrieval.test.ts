import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Db } from '../../../src/db/client.ts';
import { extractAnswer, missingWords } from '../../../src/jobs/answer/extract.ts';
import { retrieve } from '../../../src/jobs/answer/retrieval.ts';
import { SYNONYM_LEXEMES } from '../../../src/jobs/answer/synonyms.ts';
import { createIngestJob } from '../../../src/jobs/ingest/ingest-job.ts';
import { createTestDatabase, type TestDatabase } from '../../helpers/services.ts';
import { openTestDb, runAttempt } from '../ingest/run-job.ts';
import { ingestPinoDocs } from './pino-docs.ts';

let database: TestDatabase;
let db: Db;
let collectionId: string;

beforeAll(async () => {
  database = await createTestDatabase();
  db = openTestDb(database.url);
  collectionId = await ingestPinoDocs(db, 'pino');
});
afterAll(async () => {
  await db?.close();
  await database?.drop();
});

const find = (question: string, limit = 6) => retrieve(db.kysely, { collectionId, question, limit });
const extract = async (question: string) =>
  extractAnswer(db.kysely, { question, collection: 'pino', collectionId, retrieval: await find(question) });

describe('a question in natural language', () => {
  it.each([
    ['how do I redact secrets?', 'redaction.md'],
    ['How can I hide passwords in my logs?', 'redaction.md'],
    ['how do I use child loggers?', 'child-loggers.md'],
    ['what is a transport?', 'transports.md'],
    ['how to log to a file?', 'transports.md'],
    ['how do I rotate log files?', 'help.md'],
    ['does pino work in the browser?', 'browser.md'],
    ['how do I pretty print logs in development?', 'pretty.md'],
    ['can I use pino with express?', 'web.md'],
    ['how do I bundle pino with webpack?', 'bundling.md'],
    ['which node versions are supported?', 'lts.md'],
    ['what is asynchronous logging?', 'asynchronous.md'],
    ['what happens to logs when the process crashes?', 'api.md'],
    ['what is the mixin option?', 'api.md'],
    ['is there a destination that reopens?', 'api.md'],
  ])('%s finds %s among the first three', async (question, path) => {
    const { chunks } = await find(question);
    expect(chunks.slice(0, 3).map((chunk) => chunk.path)).toContain(path);
  });

  it('finds the parts of names with dots', async () => {
    const { chunks } = await find('stdTimeFunctions isoTime');
    expect(chunks[0]?.heading).toContain('stdTimeFunctions');
  });

  it('gives each chunk once, best first, no more than asked for', async () => {
    const { chunks } = await find('how do I log errors with serializers?', 4);
    expect(chunks).toHaveLength(4);
    expect(new Set(chunks.map(({ documentId, ordinal }) => `${documentId} ${ordinal}`)).size).toBe(4);
    const scores = chunks.map(({ score }) => score);
    expect(scores).toEqual([...scores].sort((a, b) => b - a));
  });

  it('understands a follow-up through the question before', async () => {
    const alone = await find('and how do I remove them altogether?');
    const followed = await retrieve(db.kysely, {
      collectionId,
      question: 'and how do I remove them altogether?',
      previousQuestion: 'how do I redact secrets?',
      limit: 6,
    });
    expect(alone.chunks.slice(0, 2).map(({ path }) => path)).not.toEqual(['redaction.md', 'redaction.md']);
    expect(followed.chunks[0]?.path).toBe('redaction.md');
  });
});

it('takes any question without an error', async () => {
  const questions = [
    "it's a 'quote' \\ and \\' more",
    "'; drop table oncefleet.chunks; --",
    '!!! & | <-> :* ()',
    'a <2> b:A & !c',
    '\u{1F600} \u202E \u2028 %s $1',
    'x'.repeat(4_000),
    Array.from({ length: 800 }, (_, n) => `w${n}`).join(' '),
    'redact\\',
    '"unbalanced',
    '?',
  ];
  for (const question of questions) {
    const { text } = await extract(question);
    expect(text).not.toBe('');
  }
});

it('finds by words that English search drops when a question has no others', async () => {
  await runAttempt(db, createIngestJob(), {
    collection: 'hamlet',
    documents: [
      { path: 'hamlet.txt', content: 'To be, or not to be, that is the question.' },
      { path: 'x.txt', content: 'Something else.' },
    ],
  }).result;
  const { id } = await db.kysely
    .selectFrom('collections')
    .select('id')
    .where('name', '=', 'hamlet')
    .executeTakeFirstOrThrow();
  const { chunks } = await retrieve(db.kysely, {
    collectionId: id,
    question: 'to be or not to be',
    limit: 3,
  });
  expect(chunks.map(({ path }) => path)).toEqual(['hamlet.txt']);
});

it('sees nothing of other collections', async () => {
  await runAttempt(db, createIngestJob(), {
    collection: 'other',
    documents: [{ path: 'secret.md', content: 'How do I redact secrets? Redact secrets by redacting secrets.' }],
  }).result;
  const { chunks } = await find('how do I redact secrets?', 20);
  expect(chunks.map(({ path }) => path)).not.toContain('secret.md');
});

it('lists synonyms as the index knows them', async () => {
  for (const lexeme of SYNONYM_LEXEMES) {
    const { rows } = await sql<{
      lexemes: string[];
    }>`select tsvector_to_array(to_tsvector('english', ${lexeme})) as lexemes`.execute(db.kysely);
    // A stem stemmed again may lose more ("sensit" does not); at least it must be no stop word.
    expect(rows[0]?.lexemes, lexeme).toHaveLength(1);
  }
});

describe('a word is said to be missing', () => {
  const documents = [
    {
      path: 'a.md',
      content:
        '# Setup\n\nRun `xyz-fooQuux2-cli` behind \uFF30\uFF32\uFF2F\uFF38\uFF39 in Größenordnung. \u8A2D\u5B9A\u3067\u304D\u308B\n',
    },
  ];
  const missingIn = async (question: string): Promise<string[]> => {
    await runAttempt(db, createIngestJob(), { collection: 'words', documents }).result;
    const { id } = await db.kysely
      .selectFrom('collections')
      .select('id')
      .where('name', '=', 'words')
      .executeTakeFirstOrThrow();
    const retrieval = await retrieve(db.kysely, { collectionId: id, question, limit: 3 });
    return missingWords(db.kysely, { question, collectionId: id, retrieval });
  };

  it.each([
    ['only where it stands nowhere in the texts', 'how is the setup of zebra run?', ['zebra']],
    ['not inside another word', 'is fooquux there?', []],
    [
      'not when it is a small word of a language that no text is in',
      'Wie ist das mit dem und von der oder für die zebra?',
      ['zebra'],
    ],
    ['not in another case', 'is FOOQUUX2 there?', []],
    ['not in another width', 'is proxy there?', []],
    ['not with letters beyond ASCII', 'GRÖSSENORDNUNG größenordn', []],
    ['not of scripts without spaces', '\u8A2D\u5B9A\u65B9\u6CD5', []],
  ])('%s', async (_, question, missing) => {
    expect(await missingIn(question)).toEqual(missing);
  });
});

describe('the extractive answer', () => {
  it('says that no model is configured, quotes, and cites what it quotes', async () => {
    const { text, sources } = await extract('how do I redact secrets?');
    expect(text).toMatch(/^No model is configured, so these are the passages of "pino" /);
    expect(text).toContain('> To redact sensitive information, supply paths to keys that hold sensitive data');
    expect(text).toMatch(/```js\nconst logger = /);
    expect(sources[0]).toMatchObject({ n: 1, path: 'redaction.md', heading: 'Redaction' });
    for (const { n } of sources) expect(text).toContain(`[${n}]`);
    const cited = new Set([...text.matchAll(/ \[(\d+)\]$/gm)].map((match) => Number(match[1])));
    for (const n of cited) expect(sources.map((source) => source.n)).toContain(n);
  });

  it.each([
    ['how do I use child loggers?', "parentLogger.child({module: 'foo'})"],
    ['how to log to a file?', 'The `pino/file` transport routes logs to a file'],
    ['how fast is it?', 'Pino average: 114.801ms'],
    ['how do I rotate log files?', 'copytruncate'],
    ['which node versions are supported?', 'Node.js release schedule'],
    ['how can I change the timestamp format?', '`pino.stdTimeFunctions.isoTime`'],
  ])('%s quotes what answers it', async (question, passage) => {
    const { text } = await extract(question);
    expect(text).toContain(passage);
    expect(text.length).toBeLessThan(6_000);
  });

  it('has balanced code fences', async () => {
    for (const question of [
      'how do I use child loggers?',
      'how do I set the log level?',
      'how do I test?',
      'what are formatters?',
      'how do I use typescript?',
    ]) {
      const { text } = await extract(question);
      expect((text.match(/^ {0,3}```/gm) ?? []).length % 2, question).toBe(0);
    }
  });

  it('quotes only text that is there', async () => {
    const { text } = await extract('how do I rotate log files?');
    const stored = await db.kysely.selectFrom('chunks').select('content').execute();
    const all = stored.map(({ content }) => content.replace(/\s+/g, ' ')).join('\n');
    for (const quote of text.match(/^(?:> .*\n?)+/gm) ?? []) {
      const plain = quote
        .replace(/^> /gm, '')
        .replace(/(?: \[…\])?(?: \[\d+\])?\s*$/, '')
        .replace(/\s+/g, ' ')
        .trim();
      expect(all).toContain(plain);
    }
  });

  it('says so when nothing fits, names the words it never met, and has no sources', async () => {
    expect(await extract('what is the capital of France?')).toEqual({
      text: 'Nothing in the collection "pino" answers this question. It never mentions "capital", "France". Try other words, or ingest documents about it.',
      sources: [],
    });
    expect((await extract('how do I write a monad in Haskell?')).sources).toEqual([]);
  });
});
