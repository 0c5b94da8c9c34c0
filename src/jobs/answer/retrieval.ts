/**
 * The chunks that fit a question best.
 *
 * BM25 over the collection's own statistics (src/search): any word of the question counts, rare words decide. Where
 * there are embeddings, what is near in meaning comes in by reciprocal rank. Bonuses for headings that fit, for more of the
 * question's words and for long chunks were tried on questions that nobody had tuned on, and lost (`npm run bench -- retrieval`).
 */
import type { Kysely } from 'kysely';
import { scanForWords } from '../../db/chunks.ts';
import type { Database } from '../../db/schema.ts';
import type { QuestionWord } from '../../search/analysis.ts';
import type { Language } from '../../search/language.ts';
import { builtInRetriever, type MeasuredTerm, type RetrievedChunk, type Retriever } from '../../search/retriever.ts';
import { type QuestionVector, withVectors } from '../../search/vectors.ts';
import { synonymsOf } from './synonyms.ts';

/** Lexemes of words that frame a question rather than say what it is about. */
const FRAMING: ReadonlySet<string> = new Set(
  'anyth best can could describ exampl explain find get give good happen help know like look make mani mean much need pleas possibl question recommend set should show someth take tell thing two understand use want way whether without work would'.split(
    ' ',
  ),
);
const FRAMING_WEIGHT = 0.25;
const SYNONYM_WEIGHT = 0.55;
/** What the words of the question before weigh. */
const PREVIOUS_WEIGHT = 0.3;
/** The same when the question makes no sense without it ("and how do I remove them?"). */
const PREVIOUS_WEIGHT_OF_FOLLOW_UP = 0.9;
const FOLLOW_UP =
  /^\s*(?:and|but|or|also|so|why|(?:what|how) about)\b|\b(?:its?|they|them|their|this|that|these|those|ones?|there)\b/i;
/** "fast" has nothing to do with Fastify: beginnings that English words share found no more passages, and misled answers. */
const WITHOUT_RELATED: ReadonlySet<Language> = new Set<Language>(['en', 'none']);
/** A longer question still finds by its first words. */
const MAX_WORDS = 64;
/** Of each ranking: enough that one document does not fill the list, and that a chunk low in both may come up. */
const CANDIDATES = 60;
/** How long all texts of a collection may be read for a question whose words no index has. */
const SCAN_LIMIT_MS = 500;

export interface QueryTerm extends MeasuredTerm {
  /** A word of the question itself, a synonym of one, words written like one, or a word of the question before. */
  origin: 'question' | 'synonym' | 'related' | 'previous';
  /** The question's word that it stands for. */
  standsFor: string;
}

export interface Retrieval {
  /** Best first. */
  chunks: RetrievedChunk[];
  /** Those that occur in the collection. */
  terms: QueryTerm[];
  /** Words of the question that occur nowhere in its index, nor their synonyms, by their `standsFor`. */
  unknown: QuestionWord[];
  /** Whether vectors were compared too; `undefined` where there is nothing to make them. */
  byMeaning: boolean | undefined;
  /** Share of the question's weight that the three best chunks have between them, 0 to 1. */
  coverage: number;
}

interface RetrievalOptions {
  collectionId: string;
  question: string;
  /** In a conversation, the user's message before. */
  previousQuestion?: string | undefined;
  limit: number;
  /** Makes the vector of a question; `undefined` where none comes. It does not throw. */
  embed?: ((text: string) => Promise<QuestionVector | undefined>) | undefined;
  retriever?: Retriever;
}

export async function retrieve(db: Kysely<Database>, options: RetrievalOptions): Promise<Retrieval> {
  const { collectionId, limit, question, previousQuestion: previously, embed, retriever = builtInRetriever } = options;
  const isFollowUp = FOLLOW_UP.test(question);
  const vector = embed?.(isFollowUp && previously !== undefined ? `${previously}\n${question}` : question);
  let words: QuestionWord[] = [];
  let origins: Omit<QueryTerm, 'matches' | 'weight'>[] = [];
  const named = (terms: readonly MeasuredTerm[]) =>
    terms.map((term, index): QueryTerm => {
      const { standsFor, origin } = origins[term.family?.of ?? index] as QueryTerm;
      return { ...term, standsFor, origin: term.family === undefined ? origin : 'related' };
    });
  // Where a chunk has little of the question, its words say little about it.
  const trust = (terms: readonly MeasuredTerm[]) => {
    const all = named(terms);
    const groups = groupWeights(all);
    return ({ matched }: RetrievedChunk) => covered(matched, all, groups);
  };
  const found = await (vector === undefined ? retriever : withVectors(retriever, vector, { trust })).find(db, {
    collectionId,
    limit: CANDIDATES,
    terms: async (analyse) => {
      words = (await analyse(question)).slice(0, MAX_WORDS);
      const previous = previously === undefined ? [] : await analyse(previously);
      origins = chooseTerms(words, previous.slice(0, MAX_WORDS), isFollowUp);
      return origins;
    },
  });
  if (words.length === 0 && found.chunks.length === 0) return scan(db, options);
  const all = named(found.terms);
  const isKnown = (word: QuestionWord) =>
    all.some(({ standsFor, matches, origin }) => matches > 0 && origin !== 'related' && standsFor === word.name);
  const unknown = words.filter((word) => !isKnown(word));
  const chunks = pickDiverse(found.chunks, limit);
  const best = [...new Set(chunks.slice(0, 3).flatMap(({ matched }) => matched))];
  return {
    chunks,
    terms: all.filter(({ matches }) => matches > 0).flatMap(byLexeme),
    unknown,
    byMeaning: vector === undefined ? undefined : (await vector) !== undefined,
    coverage: covered(best, all, groupWeights(all)),
  };
}

/** What is searched for: words of the question, their synonyms, and words of the question before. */
function chooseTerms(
  words: readonly QuestionWord[],
  previous: readonly QuestionWord[],
  isFollowUp: boolean,
): Omit<QueryTerm, 'matches' | 'weight'>[] {
  const terms = new Map<string, Omit<QueryTerm, 'matches' | 'weight'>>();
  const add = (lexeme: string, origin: QueryTerm['origin'], standsFor: string, related = false): void => {
    if (terms.has(lexeme)) return;
    terms.set(lexeme, { lexeme, origin, standsFor, importance: importance(lexeme, origin, isFollowUp), related });
  };
  for (const { name, lexemes, language } of words)
    for (const lexeme of lexemes) add(lexeme, 'question', name, !WITHOUT_RELATED.has(language));
  for (const { name } of words)
    if (!FRAMING.has(name)) for (const synonym of synonymsOf(name)) add(synonym, 'synonym', name);
  for (const { name, lexemes } of previous) for (const lexeme of lexemes) add(lexeme, 'previous', name);
  return [...terms.values()];
}

/** Words that are written alike were searched for as one. */
function byLexeme(term: QueryTerm): QueryTerm[] {
  return term.family === undefined ? [term] : term.family.lexemes.map((lexeme) => ({ ...term, lexeme }));
}

/** For a question whose words are all dropped ("to be or not to be"). */
async function scan(db: Kysely<Database>, { collectionId, question, limit }: RetrievalOptions): Promise<Retrieval> {
  const words = [...new Set(question.toLowerCase().match(/[\p{L}\p{N}]{1,100}/gu) ?? [])].slice(0, MAX_WORDS);
  const nothing = { terms: [], unknown: [], byMeaning: undefined, coverage: 0 };
  if (words.length === 0) return { chunks: [], ...nothing };
  const found = await scanForWords(db, { collectionId, words, limit, limitMs: SCAN_LIMIT_MS });
  return {
    ...nothing,
    chunks: found.map((chunk) => ({ ...chunk, matched: [] })),
    coverage: found.length === 0 ? 0 : 1,
  };
}

function importance(lexeme: string, origin: QueryTerm['origin'], isFollowUp: boolean): number {
  if (origin === 'synonym') return SYNONYM_WEIGHT;
  const framing = FRAMING.has(lexeme) ? FRAMING_WEIGHT : 1;
  if (origin === 'question') return framing;
  return framing * (isFollowUp ? PREVIOUS_WEIGHT_OF_FOLLOW_UP : PREVIOUS_WEIGHT);
}

/** What each word of the question weighs; one that only its synonyms bring in weighs what they do. */
function groupWeights(all: readonly QueryTerm[]): Map<string, number> {
  const groups = new Map<string, QueryTerm[]>();
  for (const term of all) {
    if (term.origin === 'previous') continue;
    groups.set(term.standsFor, [...(groups.get(term.standsFor) ?? []), term]);
  }
  const weights = new Map<string, number>();
  for (const [name, terms] of groups) {
    const own = terms.filter(({ origin }) => origin === 'question');
    const known = own.filter(({ matches }) => matches > 0);
    const synonyms = terms.filter(({ origin, matches }) => origin === 'synonym' && matches > 0);
    // The way of writing it that most chunks have tells how rare the word is.
    if (known.length > 0) weights.set(name, Math.min(...known.map(({ weight }) => weight)));
    else if (synonyms.length > 0) weights.set(name, Math.max(...synonyms.map(({ weight }) => weight / SYNONYM_WEIGHT)));
    else weights.set(name, Math.max(...own.map(({ weight }) => weight)));
  }
  return weights;
}

/** What a term says about the word that it stands for. */
const SHARES: Record<Exclude<QueryTerm['origin'], 'previous'>, number> = { question: 1, synonym: 0.7, related: 0.5 };

/** Share of the question's weight that matched terms have; synonyms and words written alike count for less. */
function covered(matched: readonly number[], terms: readonly QueryTerm[], groups: ReadonlyMap<string, number>): number {
  const shares = new Map<string, number>();
  for (const index of matched) {
    const term = terms[index];
    if (term === undefined || term.origin === 'previous') continue;
    shares.set(term.standsFor, Math.max(shares.get(term.standsFor) ?? 0, SHARES[term.origin]));
  }
  let have = 0;
  let whole = 0;
  for (const [lexeme, weight] of groups) {
    whole += weight;
    have += weight * (shares.get(lexeme) ?? 0);
  }
  return whole === 0 ? 0 : have / whole;
}

/** One document does not fill the list while others have something to say. */
function pickDiverse(ranked: readonly RetrievedChunk[], limit: number): RetrievedChunk[] {
  const mostOfOne = Math.max(2, Math.ceil(limit * 0.6));
  const perDocument = new Map<string, number>();
  const picked = ranked.filter(({ documentId }) => {
    const count = (perDocument.get(documentId) ?? 0) + 1;
    perDocument.set(documentId, count);
    return count <= mostOfOne;
  });
  const kept = new Set(picked.slice(0, limit));
  for (const chunk of ranked) if (kept.size < limit) kept.add(chunk);
  return ranked.filter((chunk) => kept.has(chunk));
}
