/**
 * The way to the chunks that fit a question: `Retriever`, which an extension of Postgres or a vector search may serve
 * too, and the built-in one, which reads the collection's own posting lists and needs no extension.
 */
import type { Kysely } from 'kysely';
import { type FoundChunk, findChunksAt } from '../db/chunks.ts';
import type { Database } from '../db/schema.ts';
import { findBlocks, findParts, findRemovals, measureTerms } from '../db/search.ts';
import { analyseQuestion, type QuestionWord } from './analysis.ts';
import { countMatches, inverseFrequency, type LoadedPart, loadParts, rankByBm25 } from './bm25.ts';
import type { Language } from './language.ts';
import { concatenate } from './part.ts';
import { findPostings, type PostingList, termBytes, termOf } from './postings.ts';
import { type Family, findFamilies, RELATED_WEIGHT } from './related.ts';

/** Postings that one question reads, in bytes as they are stored: about three million of them. */
const MAX_POSTING_BYTES = 8 * 1024 * 1024;
/** A term's postings take no more than so many bytes a chunk; below the limit above nothing needs measuring. */
const BYTES_OF_A_POSTING = 3;

/** A lexeme to search for. */
interface SearchTerm {
  lexeme: string;
  /** Multiplies what the ranking gives for it. */
  importance: number;
  /** Whether words that are written alike are searched for as well. */
  related?: boolean;
}

export interface MeasuredTerm extends SearchTerm {
  /** Chunks of the collection that have it. */
  matches: number;
  /** Its inverse document frequency in the collection, times its importance. */
  weight: number;
  /** These are words of the collection that are written like the term of this index. */
  family?: { of: number; lexemes: string[] };
}

export interface RetrievedChunk extends FoundChunk {
  score: number;
  /** Which of the terms it has, as indexes. */
  matched: number[];
}

/** A term's postings, of each part. */
type Lists = readonly (PostingList | undefined)[];

interface Search {
  collectionId: string;
  /**
   * Called with what analyses texts as the collection's documents were analysed.
   *
   * @returns what to search for
   */
  terms(analyse: (question: string) => Promise<QuestionWord[]>): Promise<SearchTerm[]>;
  /** At most so many chunks. */
  limit: number;
}

export interface Found {
  /** Best first. */
  chunks: RetrievedChunk[];
  /** What was searched for, also what does not occur; behind it, the words that are written alike. */
  terms: MeasuredTerm[];
}

export interface Retriever {
  find(db: Kysely<Database>, search: Search): Promise<Found>;
}

/** Reads in one snapshot: parts that are merged meanwhile are still there. */
export const builtInRetriever: Retriever = {
  find: (db, search) =>
    db
      .transaction()
      .setIsolationLevel('repeatable read')
      .setAccessMode('read only')
      .execute((trx) => find(trx, search)),
};

async function find(trx: Kysely<Database>, { collectionId, terms, limit }: Search): Promise<Found> {
  const rows = await findParts(trx, collectionId);
  const { parts, statistics } = loadParts(rows, await findRemovals(trx, collectionId));
  const languages = [...new Set(rows.flatMap((row) => row.languages))] as Language[];
  const asked = await terms((question) => analyseQuestion(trx, question, languages));
  if (asked.length === 0 || parts.length === 0)
    return { chunks: [], terms: asked.map((term) => ({ ...term, matches: 0, weight: 0 })) };

  const lists: Lists[] = await readLists(trx, parts, asked);
  const measure = (term: Omit<MeasuredTerm, 'matches' | 'weight'>, own: Lists): MeasuredTerm => {
    const matches = countMatches(parts, own);
    return { ...term, matches, weight: inverseFrequency(matches, statistics.chunks) * term.importance };
  };
  const measured = asked.map((term, index) => measure(term, lists[index] as Lists));
  for (const { of, family } of await readFamilies(trx, parts, measured, languages)) {
    const { lexeme, importance } = measured[of] as MeasuredTerm;
    const term = { lexeme, importance: RELATED_WEIGHT * importance, family: { of, lexemes: family.lexemes } };
    measured.push(measure(term, family.lists));
    lists.push(family.lists);
  }
  const places = rankByBm25(
    parts,
    statistics,
    measured.map(({ weight }, index) => ({ weight, lists: lists[index] as Lists })),
    limit,
  );
  const chunks = await findChunksAt(trx, collectionId, places);
  return {
    chunks: places.flatMap(({ score, matched }, index) => {
      const chunk = chunks[index];
      return chunk === undefined ? [] : [{ ...chunk, score, matched }];
    }),
    terms: measured,
  };
}

/** Of the terms that are searched for with them, the words that are written alike; rare terms first. */
async function readFamilies(
  trx: Kysely<Database>,
  parts: readonly LoadedPart[],
  terms: readonly MeasuredTerm[],
  languages: readonly Language[],
): Promise<{ of: number; family: Family }[]> {
  const wanted = [...terms.keys()]
    .filter((index) => terms[index]?.related === true)
    .sort((a, b) => (terms[b] as MeasuredTerm).weight - (terms[a] as MeasuredTerm).weight);
  const families = await findFamilies(
    trx,
    parts.map(({ id }) => id),
    wanted.map((index) => (terms[index] as MeasuredTerm).lexeme),
    languages,
  );
  return wanted.flatMap((of, place) => {
    const family = families[place];
    return family === undefined ? [] : [{ of, family }];
  });
}

/** Of each term, its postings in each part. */
async function readLists(
  trx: Kysely<Database>,
  parts: readonly LoadedPart[],
  terms: readonly SearchTerm[],
): Promise<Lists[]> {
  const places = new Map(parts.map(({ id }, index) => [id, index]));
  const wanted = terms.map(({ lexeme }) => termBytes(termOf(lexeme)));
  const chunks = parts.reduce((sum, { chunkCount }) => sum + chunkCount, 0);
  const read =
    chunks * terms.length * BYTES_OF_A_POSTING <= MAX_POSTING_BYTES
      ? wanted.map((_, index) => index)
      : withinLimit(await measureTerms(trx, [...places.keys()], wanted));
  const found = await findBlocks(
    trx,
    [...places.keys()],
    read.map((index) => wanted[index] as Buffer),
  );
  const pieces = terms.map(() => parts.map((): PostingList[] => []));
  for (const { partId, term: asked, data } of found) {
    const term = read[asked] as number;
    const list = findPostings(data, wanted[term] as Buffer);
    if (list !== undefined) pieces[term]?.[places.get(partId) as number]?.push(list);
  }
  return pieces.map((byPart) => byPart.map((lists) => (lists.length === 0 ? undefined : concatenate(lists))));
}

/** The terms whose postings may be read, rarest first; with all others a question would take too long, and they decide little. */
function withinLimit(bytes: readonly number[]): number[] {
  const order = [...bytes.keys()].sort((a, b) => (bytes[a] as number) - (bytes[b] as number));
  let sum = 0;
  return order.filter((index, place) => {
    sum += bytes[index] as number;
    return place === 0 || sum <= MAX_POSTING_BYTES;
  });
}
