/**
 * The chunks that fit a question best, by full-text search.
 *
 * A natural question matches no chunk with all its words, so any word counts: each with its
 * inverse document frequency, so that rare words decide. Chunks that have more of the
 * question's words, have them next to each other as it does, and stand under a heading that
 * is about them, come first.
 */
import type { Kysely } from 'kysely';
import {
  countMatches,
  findBestChunks,
  findLexemes,
  findQuestionLexemes,
  type Lexeme,
  phrase,
  quoteLexeme,
  type RankedChunk,
  type SearchConfiguration,
} from '../../db/chunks.ts';
import type { Database } from '../../db/schema.ts';
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
const MAX_LEXEMES = 64;
/** Ranked once more by what SQL leaves out. */
const CANDIDATES = 200;
/** What a heading that says exactly what the question asks is worth. */
const HEADING_FOCUS_BONUS = 2;
/** A chunk shorter than this rarely answers by itself. In UTF-16 units. */
const FULL_LENGTH = 400;

export interface QueryTerm {
  lexeme: string;
  /** Inverse document frequency in the collection, times what the word matters in the question. */
  weight: number;
  /** Chunks of the collection that have it. */
  matches: number;
  /** A word of the question itself, a synonym of one, or a word of the question before. */
  origin: 'question' | 'synonym' | 'previous';
  /** The question's lexeme that a synonym stands for; its own otherwise. */
  standsFor: string;
}

export interface Retrieval {
  /** Best first. */
  chunks: RankedChunk[];
  /** Those that occur in the collection. */
  terms: QueryTerm[];
  /** Lexemes of the question that occur nowhere in it, nor their synonyms. */
  unknown: string[];
  configuration: SearchConfiguration;
  /** Share of the question's weight that the three best chunks have between them, 0 to 1. */
  coverage: number;
}

interface RetrievalOptions {
  collectionId: string;
  question: string;
  /** In a conversation, the user's message before. */
  previousQuestion?: string | undefined;
  limit: number;
}

export async function retrieve(db: Kysely<Database>, options: RetrievalOptions): Promise<Retrieval> {
  const english = await findQuestionLexemes(db, options.question, 'english');
  if (english.length > 0) return retrieveWith(db, options, english, 'english');
  // All of words that English search drops ("to be or not to be").
  return retrieveWith(db, options, await findQuestionLexemes(db, options.question, 'simple'), 'simple');
}

async function retrieveWith(
  db: Kysely<Database>,
  options: RetrievalOptions,
  question: readonly Lexeme[],
  configuration: SearchConfiguration,
): Promise<Retrieval> {
  const own = question.slice(0, MAX_LEXEMES);
  const previous =
    options.previousQuestion === undefined
      ? []
      : (await findQuestionLexemes(db, options.previousQuestion, configuration)).slice(0, MAX_LEXEMES);
  const origins = new Map<string, Pick<QueryTerm, 'origin' | 'standsFor'>>();
  for (const { lexeme } of own) origins.set(lexeme, { origin: 'question', standsFor: lexeme });
  for (const { lexeme } of own) {
    if (FRAMING.has(lexeme)) continue;
    for (const synonym of synonymsOf(lexeme))
      if (!origins.has(synonym)) origins.set(synonym, { origin: 'synonym', standsFor: lexeme });
  }
  for (const { lexeme } of previous)
    if (!origins.has(lexeme)) origins.set(lexeme, { origin: 'previous', standsFor: lexeme });
  if (origins.size === 0) return { chunks: [], terms: [], unknown: [], configuration, coverage: 0 };

  const { total, matches } = await countMatches(
    db,
    options.collectionId,
    [...origins.keys()].map(quoteLexeme),
    configuration,
  );
  const all = [...origins].map(([lexeme, origin], index): QueryTerm => {
    const found = matches[index] as number;
    return {
      ...origin,
      lexeme,
      matches: found,
      weight: idf(found, total) * importance(lexeme, origin.origin, FOLLOW_UP.test(options.question)),
    };
  });
  const terms = all.filter((term) => term.matches > 0);
  const groups = groupWeights(all);
  const unknown = all
    .filter((term) => term.origin === 'question' && !terms.some(({ standsFor }) => standsFor === term.lexeme))
    .map(({ lexeme }) => lexeme);
  if (terms.length === 0) return { chunks: [], terms, unknown, configuration, coverage: 0 };

  const candidates = await findBestChunks(db, {
    collectionId: options.collectionId,
    terms: terms.map(({ lexeme, weight }) => ({ query: quoteLexeme(lexeme), weight })),
    phrases: phrasesOf(own, new Map(terms.map((term) => [term.lexeme, term.weight]))),
    configuration,
    limit: CANDIDATES,
  });
  const focus = await headingFocus(db, candidates, terms, configuration);
  const ranked = candidates
    .map((chunk, index) => ({
      ...chunk,
      score:
        chunk.score *
        (0.25 + 0.75 * covered(chunk.matched, terms, groups)) *
        (1 + HEADING_FOCUS_BONUS * (focus[index] ?? 0)) *
        (0.5 + 0.5 * Math.min(1, readableLength(chunk.content) / FULL_LENGTH)) *
        (chunk.ordinal === 0 ? 1.15 : 1),
    }))
    .sort((a, b) => b.score - a.score);
  const chunks = pickDiverse(ranked, options.limit);
  const best = [...new Set(chunks.slice(0, 3).flatMap(({ matched }) => matched))];
  return { chunks, terms, unknown, configuration, coverage: covered(best, terms, groups) };
}

function idf(matches: number, total: number): number {
  // Counted apart, so a writer in between may leave more matches than chunks.
  return Math.log(1 + (Math.max(total, matches) - matches + 0.5) / (matches + 0.5));
}

function importance(lexeme: string, origin: QueryTerm['origin'], isFollowUp: boolean): number {
  if (origin === 'synonym') return SYNONYM_WEIGHT;
  const framing = FRAMING.has(lexeme) ? FRAMING_WEIGHT : 1;
  if (origin === 'question') return framing;
  return framing * (isFollowUp ? PREVIOUS_WEIGHT_OF_FOLLOW_UP : PREVIOUS_WEIGHT);
}

/** What each lexeme of the question weighs; one that only its synonyms bring in weighs what they do. */
function groupWeights(all: readonly QueryTerm[]): Map<string, number> {
  const weights = new Map<string, number>();
  for (const term of all) {
    if (term.origin !== 'question') continue;
    const synonyms = all.filter(
      ({ origin, standsFor, matches }) => origin === 'synonym' && standsFor === term.lexeme && matches > 0,
    );
    const weight =
      term.matches > 0 || synonyms.length === 0
        ? term.weight
        : Math.max(...synonyms.map((synonym) => synonym.weight / SYNONYM_WEIGHT));
    weights.set(term.lexeme, weight);
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
  chunks: readonly RankedChunk[],
  terms: readonly QueryTerm[],
  configuration: SearchConfiguration,
): Promise<number[]> {
  const headings = await findLexemes(
    db,
    chunks.map(({ heading }) => heading.slice(heading.lastIndexOf(' > ') + 1).replace(/\([^)]*\)/g, '')),
    configuration,
  );
  const whole = sum(terms.filter(({ origin }) => origin === 'question').map(({ weight }) => weight));
  return headings.map((lexemes) => {
    const shared = terms.filter((term) => term.origin !== 'previous' && lexemes.includes(term.lexeme));
    if (shared.length === 0 || whole === 0) return 0;
    const recall = Math.min(1, sum(shared.map(({ weight }) => weight)) / whole);
    return recall * (shared.length / lexemes.length);
  });
}

/** Without tags and link targets, which nobody reads. */
function readableLength(content: string): number {
  return content.replace(/<[^<>]*>|\]\([^()]*\)/g, '').length;
}

/** Neighbours in the question, with their distance there. */
function phrasesOf(
  lexemes: readonly Lexeme[],
  weights: ReadonlyMap<string, number>,
): { query: string; weight: number }[] {
  const places = lexemes
    .flatMap(({ lexeme, positions }) => positions.map((position) => ({ lexeme, position })))
    .sort((a, b) => a.position - b.position);
  const phrases: { query: string; weight: number }[] = [];
  for (const [index, second] of places.entries()) {
    const first = places[index - 1];
    if (first === undefined || first.lexeme === second.lexeme) continue;
    const distance = second.position - first.position;
    const [firstWeight, secondWeight] = [weights.get(first.lexeme), weights.get(second.lexeme)];
    if (distance > 3 || firstWeight === undefined || secondWeight === undefined) continue;
    // A tenth: about what each of the two brings when it is found once in the text.
    phrases.push({ query: phrase(first.lexeme, second.lexeme, distance), weight: 0.1 * (firstWeight + secondWeight) });
  }
  return phrases;
}

/** One document does not fill the list while others have something to say. */
function pickDiverse(ranked: readonly RankedChunk[], limit: number): RankedChunk[] {
  const best = ranked[0]?.score ?? 0;
  const mostOfOne = Math.max(2, Math.ceil(limit * 0.6));
  const perDocument = new Map<string, number>();
  const picked: RankedChunk[] = [];
  for (const chunk of ranked) {
    if (picked.length === limit) break;
    const count = perDocument.get(chunk.documentId) ?? 0;
    // The tail that shares one common word with the question is noise.
    if (count >= mostOfOne || chunk.score < best * 0.1) continue;
    perDocument.set(chunk.documentId, count + 1);
    picked.push(chunk);
  }
  return picked;
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
