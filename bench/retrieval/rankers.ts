/** Oncefleet's retrieval, and what else there is to search with from Node. */
import { createRequire } from 'node:module';
import { sql } from 'kysely';
import MiniSearch from 'minisearch';
import { retrieve } from '../../src/jobs/answer/retrieval.ts';
import { analyseTexts } from '../../src/search/analysis.ts';
import { type Chunk, type Collection, LIMIT, type Ranker, toPlace } from './collection.ts';
import type { Language, Place } from './question-set.ts';

const CONFIGURATIONS: Record<Language, string> = {
  en: 'english',
  de: 'german',
  fr: 'french',
  ru: 'russian',
  zh: 'simple',
  ja: 'simple',
};

const sourcesOf: Ranker['open'] =
  async ({ db, id, embedder }) =>
  async ({ text }) => {
    const embed =
      embedder === undefined
        ? undefined
        : (question: string) => embedder.embedQuestion(question, new AbortController().signal);
    const { chunks } = await retrieve(db.kysely, { collectionId: id, question: text, limit: LIMIT, embed });
    return chunks.map(toPlace);
  };

const answersOf: Ranker['open'] =
  async ({ fleet, name, jobs }) =>
  async ({ text }) => {
    const job = await fleet.enqueue(jobs.answer, { question: text, collection: name });
    const { sources } = await job.result();
    return sources.map(toPlace);
  };

const bm25: Ranker = {
  name: 'BM25, words of Postgres',
  async open(collection) {
    const documents = await lexemesOf(
      collection,
      collection.chunks.map(({ heading, content }) => `${heading}\n${content}`),
    );
    const averageLength = documents.reduce((sum, { length }) => sum + length, 0) / documents.length;
    return async ({ text }) => {
      const [asked] = await lexemesOf(collection, [text]);
      const scores = documents.map(({ counts, length }) => {
        let score = 0;
        for (const lexeme of asked?.counts.keys() ?? []) {
          const count = counts.get(lexeme) ?? 0;
          const matches = documents.filter((document) => document.counts.has(lexeme)).length;
          const idf = Math.log(1 + (documents.length - matches + 0.5) / (matches + 0.5));
          score += (idf * count * 2.2) / (count + 1.2 * (0.25 + (0.75 * length) / averageLength));
        }
        return score;
      });
      return best(collection.chunks, scores);
    };
  },
};

interface Lexemes {
  counts: ReadonlyMap<string, number>;
  length: number;
}

async function lexemesOf({ db, language }: Collection, texts: readonly string[]): Promise<Lexemes[]> {
  const { rows } = await sql<{ counts: string }>`
    select (
      select coalesce(json_object_agg(lexeme, cardinality(positions)), '{}')::text
      from unnest(to_tsvector(${configurationOf(language)}::regconfig, text))
    ) as counts
    from unnest(${[...texts]}::text[]) with ordinality as t (text, n) order by n`.execute(db.kysely);
  return rows.map((row) => {
    const counts = new Map(Object.entries<number>(JSON.parse(row.counts)));
    return { counts, length: [...counts.values()].reduce((sum, count) => sum + count, 0) };
  });
}

const tsRankCd: Ranker = {
  name: 'ts_rank_cd',
  async open({ db, chunks, language }) {
    const texts = chunks.map(({ heading, content }) => `${heading}\n${content}`);
    return async ({ text }) => {
      const { rows } = await sql<{ score: number }>`
        with asked as (
          select replace(plainto_tsquery(${configurationOf(language)}::regconfig, ${text})::text, '&', '|')::tsquery as query
        )
        select ts_rank_cd(to_tsvector(${configurationOf(language)}::regconfig, text), query)::float8 as score
        from asked, unnest(${texts}::text[]) with ordinality as t (text, n) order by n`.execute(db.kysely);
      return best(
        chunks,
        rows.map(({ score }) => score),
      );
    };
  },
};

const miniSearch: Ranker = {
  name: 'MiniSearch',
  async open({ chunks }) {
    const index = new MiniSearch({
      fields: ['heading', 'content'],
      searchOptions: { boost: { heading: 2 }, prefix: true, fuzzy: 0.2 },
    });
    index.addAll(chunks.map((chunk, id) => ({ id, ...chunk })));
    return ({ text }) => index.search(text).map(({ id }) => chunks[id] as Chunk);
  },
};

/** Of two packages without types, what is used here. */
interface Wink {
  defineConfig(config: { fldWeights: Record<string, number> }): void;
  definePrepTasks(tasks: readonly ((input: never) => unknown)[]): void;
  addDoc(document: object, id: number): void;
  consolidate(): void;
  search(text: string, limit: number): [id: string, score: number][];
}
interface WinkUtilities {
  string: Record<'lowerCase' | 'removeExtraSpaces', (text: string) => string>;
  tokens: Record<'removeWords' | 'stem', (tokens: string[]) => string[]>;
}

const wink: Ranker = {
  name: 'wink-bm25-text-search',
  async open({ chunks, language }) {
    const require = createRequire(import.meta.url);
    const index = (require('wink-bm25-text-search') as () => Wink)();
    const { string, tokens } = require('wink-nlp-utils') as WinkUtilities;
    index.defineConfig({ fldWeights: { heading: 2, content: 1 } });
    const words = (text: string) => text.match(/[\p{L}\p{N}]+/gu) ?? [];
    // Its stemmer and stop words are English.
    index.definePrepTasks([string.lowerCase, words, ...(language === 'en' ? [tokens.removeWords, tokens.stem] : [])]);
    for (const [id, { heading, content }] of chunks.entries()) index.addDoc({ heading, content }, id);
    index.consolidate();
    return ({ text }) => index.search(text, LIMIT).map(([id]) => chunks[Number(id)] as Chunk);
  },
};

export const OURS: readonly Ranker[] = [
  { name: 'oncefleet', open: sourcesOf },
  { name: "oncefleet's answers", open: answersOf },
];
/** Of a collection with vectors. */
export const OURS_BY_MEANING: readonly Ranker[] = [
  { name: 'oncefleet with embeddings', open: sourcesOf },
  { name: "oncefleet's answers with embeddings", open: answersOf },
];
/** Knows the passage, and finds it where it shares a word with the question: no search by words alone finds more. */
const mostByWords: Ranker = {
  name: 'most that words can find',
  open:
    async ({ db, chunks, language }) =>
    async ({ text, expected }) => {
      const passages = chunks.filter(({ path, heading }) => path === expected.path && heading === expected.heading);
      const texts = [text, ...passages.map(({ heading, content }) => `${heading}\n${content}`)];
      const [asked, ...found] = await analyseTexts(
        db.kysely,
        texts.map((content) => ({ language: language ?? 'none', heading: '', content })),
      );
      const words = new Set(asked?.map(({ lexeme }) => lexeme));
      return passages.filter((_, index) => found[index]?.some(({ lexeme }) => words.has(lexeme)));
    },
};

export const OTHERS: readonly Ranker[] = [bm25, miniSearch, wink, tsRankCd, mostByWords];

function configurationOf(language: Language | undefined): string {
  return language === undefined ? 'simple' : CONFIGURATIONS[language];
}

function best(chunks: readonly Chunk[], scores: readonly number[]): Place[] {
  return scores
    .map((score, index) => ({ score, chunk: chunks[index] as Chunk }))
    .filter(({ score }) => score > 0)
    .sort((a, b) => b.score - a.score)
    .map(({ chunk }) => chunk);
}
