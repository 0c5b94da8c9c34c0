/**
 * The chunks that fit a question best.
 *
 * The base is BM25 over the collection's own statistics (src/search): any word of the question counts, rare words
 * decide. What is on top of it can be switched off, which is how `npm run bench -- retrieval` finds out what it is
 * worth.
 */
import type { Kysely } from 'kysely';
import { scanForWords } from '../../db/chunks.ts';
import type { Database } from '../../db/schema.ts';
import { analyseTexts, type QuestionWord } from '../../search/analysis.ts';
import type { Language } from '../../search/language.ts';
import { builtInRetriever, type MeasuredTerm, type RetrievedChunk, type Retriever } from '../../search/retriever.ts';
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
/** A longer question still finds by its first words. */
const MAX_WORDS = 64;
/** Ranked once more by what BM25 leaves out. */
const CANDIDATES = 200;
/** What a heading that says exactly what the question asks is worth. */
const HEADING_FOCUS_BONUS = 2;
/** A chunk shorter than this rarely answers by itself. In UTF-16 units. */
const FULL_LENGTH = 400;
/** How long all texts of a collection may be read for a question whose words no index has. */
const SCAN_LIMIT_MS = 500;

/** What is on top of BM25. */
interface RankingFeatures {
  /** Words that frame a question ("how do I use …") count less. */
  framing: boolean;
  /** Words that documentation uses for each other are searched for too. */
  synonyms: boolean;
  /** Chunks with more of the question's words come first. */
  coverage: boolean;
  /** Chunks whose own heading is about the question come first. */
  headingFocus: boolean;
  /** Short chunks come later, a document's first chunk sooner. */
  shape: boolean;
  /** One document does not fill the list. */
  diversity: boolean;
}

const RANKING: RankingFeatures = {
  framing: true,
  synonyms: true,
  coverage: true,
  headingFocus: true,
  shape: true,
  diversity: true,
};

export interface QueryTerm extends MeasuredTerm {
  /** A word of the question itself, a synonym of one, or a word of the question before. */
  origin: 'question' | 'synonym' | 'previous';
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
  /** Share of the question's weight that the three best chunks have between them, 0 to 1. */
  coverage: number;
}

interface RetrievalOptions {
  collectionId: string;
  question: string;
  /** In a conversation, the user's message before. */
  previousQuestion?: string | undefined;
  limit: number;
  features?: RankingFeatures;
  retriever?: Retriever;
}

export async function retrieve(db: Kysely<Database>, options: RetrievalOptions): Promise<Retrieval> {
  const { collectionId, limit, features = RANKING, retriever = builtInRetriever } = options;
  let words: QuestionWord[] = [];
  let origins: Omit<QueryTerm, 'matches' | 'weight'>[] = [];
  const found = await retriever.find(db, {
    collectionId,
    limit: CANDIDATES,
    terms: async (analyse) => {
      words = (await analyse(options.question)).slice(0, MAX_WORDS);
      const previous = options.previousQuestion === undefined ? [] : await analyse(options.previousQuestion);
      origins = chooseTerms(words, previous.slice(0, MAX_WORDS), FOLLOW_UP.test(options.question), features);
      return origins;
    },
  });
  if (words.length === 0) return scan(db, options);
  const all = found.terms.map((term, index): QueryTerm => ({ ...(origins[index] as QueryTerm), ...term }));
  const isKnown = (word: QuestionWord) => all.some(({ standsFor, matches }) => matches > 0 && standsFor === word.name);
  const unknown = words.filter((word) => !isKnown(word));
  const ranked = await rankAgain(db, found.chunks, all, features);
  const chunks = features.diversity ? pickDiverse(ranked, limit) : ranked.slice(0, limit);
  const best = [...new Set(chunks.slice(0, 3).flatMap(({ matched }) => matched))];
  return {
    chunks,
    terms: all.filter(({ matches }) => matches > 0),
    unknown,
    coverage: covered(best, all, groupWeights(all)),
  };
}

/** What is searched for: words of the question, their synonyms, and words of the question before. */
function chooseTerms(
  words: readonly QuestionWord[],
  previous: readonly QuestionWord[],
  isFollowUp: boolean,
  features: RankingFeatures,
): Omit<QueryTerm, 'matches' | 'weight'>[] {
  const terms = new Map<string, Omit<QueryTerm, 'matches' | 'weight'>>();
  const add = (lexeme: string, origin: QueryTerm['origin'], standsFor: string): void => {
    if (terms.has(lexeme)) return;
    terms.set(lexeme, { lexeme, origin, standsFor, importance: importance(lexeme, origin, isFollowUp, features) });
  };
  for (const { name, lexemes } of words) for (const lexeme of lexemes) add(lexeme, 'question', name);
  for (const { name } of features.synonyms ? words : [])
    if (!FRAMING.has(name)) for (const synonym of synonymsOf(name)) add(synonym, 'synonym', name);
  for (const { name, lexemes } of previous) for (const lexeme of lexemes) add(lexeme, 'previous', name);
  return [...terms.values()];
}

/** For a question whose words are all dropped ("to be or not to be"). */
async function scan(db: Kysely<Database>, { collectionId, question, limit }: RetrievalOptions): Promise<Retrieval> {
  const words = [...new Set(question.toLowerCase().match(/[\p{L}\p{N}]{1,100}/gu) ?? [])].slice(0, MAX_WORDS);
  const nothing = { terms: [], unknown: [], coverage: 0 };
  if (words.length === 0) return { chunks: [], ...nothing };
  const found = await scanForWords(db, { collectionId, words, limit, limitMs: SCAN_LIMIT_MS });
  return {
    ...nothing,
    chunks: found.map((chunk) => ({ ...chunk, matched: [] })),
    coverage: found.length === 0 ? 0 : 1,
  };
}

async function rankAgain(
  db: Kysely<Database>,
  candidates: readonly RetrievedChunk[],
  terms: readonly QueryTerm[],
  features: RankingFeatures,
): Promise<RetrievedChunk[]> {
  const focus = features.headingFocus ? await headingFocus(db, candidates, terms) : [];
  const groups = groupWeights(terms);
  return candidates
    .map((chunk, index) => {
      let score = chunk.score * (1 + HEADING_FOCUS_BONUS * (focus[index] ?? 0));
      if (features.coverage) score *= 0.25 + 0.75 * covered(chunk.matched, terms, groups);
      if (features.shape) {
        score *= 0.5 + 0.5 * Math.min(1, readableLength(chunk.content) / FULL_LENGTH);
        if (chunk.ordinal === 0) score *= 1.15;
      }
      return { ...chunk, score };
    })
    .sort((a, b) => b.score - a.score);
}

function importance(
  lexeme: string,
  origin: QueryTerm['origin'],
  isFollowUp: boolean,
  features: RankingFeatures,
): number {
  if (origin === 'synonym') return SYNONYM_WEIGHT;
  const framing = features.framing && FRAMING.has(lexeme) ? FRAMING_WEIGHT : 1;
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

/** Share of the question's weight that matched terms have; a synonym counts for less. */
function covered(matched: readonly number[], terms: readonly QueryTerm[], groups: ReadonlyMap<string, number>): number {
  const shares = new Map<string, number>();
  for (const index of matched) {
    const term = terms[index];
    if (term === undefined || term.origin === 'previous') continue;
    shares.set(term.standsFor, Math.max(shares.get(term.standsFor) ?? 0, term.origin === 'question' ? 1 : 0.7));
  }
  let have = 0;
  let whole = 0;
  for (const [lexeme, weight] of groups) {
    whole += weight;
    have += weight * (shares.get(lexeme) ?? 0);
  }
  return whole === 0 ? 0 : have / whole;
}

/** How much each chunk's own (last) heading is about the question: 1 when it says the same and nothing else. */
async function headingFocus(
  db: Kysely<Database>,
  chunks: readonly RetrievedChunk[],
  terms: readonly QueryTerm[],
): Promise<number[]> {
  const headings = await analyseTexts(
    db,
    chunks.map(({ heading, language }) => ({
      language: language as Language,
      heading: '',
      content: heading.slice(heading.lastIndexOf(' > ') + 1).replace(/\([^)]*\)/g, ''),
    })),
  );
  const groups = groupWeights(terms);
  const whole = sum([...groups.values()]);
  return headings.map((lexemes) => {
    const shared = terms.filter(
      (term) => term.origin !== 'previous' && lexemes.some(({ lexeme }) => lexeme === term.lexeme),
    );
    if (shared.length === 0 || whole === 0) return 0;
    const recall = Math.min(1, sum(shared.map(({ weight }) => weight)) / whole);
    return recall * Math.min(1, shared.length / lexemes.length);
  });
}

/** Without tags and link targets, which nobody reads. */
function readableLength(content: string): number {
  return content.replace(/<[^<>]*>|\]\([^()]*\)/g, '').length;
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

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
