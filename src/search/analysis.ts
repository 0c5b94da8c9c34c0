/**
 * Texts into terms. Postgres's text search configurations do it, each for its language: they are there on every
 * server, they know 28 languages, and a document is analysed by the same code as a question about it.
 */
import type { Kysely } from 'kysely';
import type { Database } from '../db/schema.ts';
import { makeVectors } from '../db/search.ts';
import { configurationOf, detectLanguage, type Language } from './language.ts';
import { termOf } from './postings.ts';
import { backwardsTerm } from './related.ts';
import { segment } from './segment.ts';

/** Raise it with every change that makes other terms of the same text: documents are then indexed anew by their next ingest. */
export const ANALYSER_VERSION = 5;

/** How much a word of a heading counts as one of the text. */
const HEADING_FREQUENCY = 2;
/** One statement analyses no more. In UTF-16 units. */
const MAX_BATCH_LENGTH = 500_000;

interface ChunkText {
  language: Language;
  heading: string;
  content: string;
}

export interface AnalysedChunk {
  /** How often each term occurs; in the heading it counts more. */
  terms: ReadonlyMap<string, number>;
  /** Of heading and text, without stop words. */
  words: number;
}

/** A lexeme with the positions of its words, from 1. Words that were dropped count. */
interface Lexeme {
  lexeme: string;
  positions: number[];
  /** How many of the positions are in the heading. */
  inHeading: number;
}

export async function analyseChunks(db: Kysely<Database>, chunks: readonly ChunkText[]): Promise<AnalysedChunk[]> {
  const analysed: AnalysedChunk[] = [];
  for (const batch of batches(chunks)) {
    for (const [index, lexemes] of (await analyseTexts(db, batch)).entries()) {
      const { language } = batch[index] as ChunkText;
      const terms = new Map<string, number>();
      let words = 0;
      for (const { lexeme, positions, inHeading } of lexemes) {
        const term = termOf(lexeme);
        words += positions.length;
        const frequency = positions.length + (HEADING_FREQUENCY - 1) * inHeading;
        terms.set(term, (terms.get(term) ?? 0) + frequency);
        const backwards = backwardsTerm(lexeme, language);
        if (backwards !== undefined) terms.set(backwards, frequency);
      }
      analysed.push({ terms, words });
    }
  }
  return analysed;
}

/** The lexemes of each text. */
export async function analyseTexts(db: Kysely<Database>, texts: readonly ChunkText[]): Promise<Lexeme[][]> {
  const vectors = await makeVectors(
    db,
    texts.map(({ language, heading, content }) => ({
      configuration: configurationOf(language),
      heading: segment(heading, language),
      content: segment(content, language),
    })),
  );
  return vectors.map(parseVector);
}

/** A word of a question, in each way that a collection's documents may have it. */
export interface QuestionWord {
  /** What stands for the word: its lexeme in this language. */
  name: string;
  language: Language;
  lexemes: string[];
  /** Positions in the question, from 1. */
  positions: number[];
}

/**
 * A question's words as documents of these languages have them.
 *
 * Words that the question's own language drops ("how", "the") are dropped for all: another language's configuration
 * would keep them, and they are rare in its documents, so that they would decide.
 */
export async function analyseQuestion(
  db: Kysely<Database>,
  question: string,
  languages: readonly Language[],
): Promise<QuestionWord[]> {
  const known = [...new Set(languages)];
  if (known.length === 0) return [];
  const own = known.length === 1 ? known[0] : await detectLanguage(question, known);
  // Its own language first: it names the words.
  const ordered = known.sort((a, b) => Number(b === own) - Number(a === own));
  const analysed = await analyseTexts(
    db,
    ordered.map((language) => ({ language, heading: '', content: question })),
  );
  // All of its words are dropped: other languages would find them in what is not about it.
  if (ordered[0] === own && analysed[0]?.length === 0) return [];
  const words = new Map<string, QuestionWord>();
  const byPosition = new Map<number, QuestionWord>();
  const keepOnly = ordered[0] === own;
  for (const [index, lexemes] of analysed.entries()) {
    const samePlaces = segment(question, ordered[index] as Language) === segment(question, ordered[0] as Language);
    for (const { lexeme, positions } of lexemes) {
      const place = samePlaces ? positions.find((position) => byPosition.has(position)) : undefined;
      const known = words.get(lexeme) ?? (place === undefined ? undefined : byPosition.get(place));
      if (known !== undefined) {
        if (!known.lexemes.includes(lexeme)) known.lexemes.push(lexeme);
        continue;
      }
      if (index > 0 && keepOnly && samePlaces) continue;
      const word = { name: lexeme, language: ordered[index] as Language, lexemes: [lexeme], positions };
      words.set(lexeme, word);
      if (samePlaces) for (const position of positions) byPosition.set(position, word);
    }
  }
  return [...words.values()].sort((a, b) => (a.positions[0] as number) - (b.positions[0] as number));
}

/** Reads a tsvector as Postgres writes it: `'a':1A,3 'it''s':2`. */
export function parseVector(text: string): Lexeme[] {
  const lexemes: Lexeme[] = [];
  for (let at = 0; at < text.length; ) {
    // Behind the opening quote.
    let end = ++at;
    let lexeme = '';
    for (; ; end++) {
      const unit = text.charCodeAt(end);
      if (unit !== QUOTE && unit !== BACKSLASH) continue;
      if (unit === QUOTE && text.charCodeAt(end + 1) !== QUOTE) break;
      // Of a pair, one is kept.
      lexeme += text.slice(at, end + 1);
      at = end + 2;
      end++;
    }
    lexeme += text.slice(at, end);
    at = end + 1;
    const positions: number[] = [];
    let inHeading = 0;
    while (at < text.length && text.charCodeAt(at) !== SPACE) {
      // Behind the colon or a comma.
      at++;
      let position = 0;
      for (let digit = text.charCodeAt(at) - ZERO; digit >= 0 && digit <= 9; digit = text.charCodeAt(++at) - ZERO)
        position = position * 10 + digit;
      positions.push(position);
      if (text.charCodeAt(at) === LETTER_A) {
        inHeading++;
        at++;
      }
    }
    lexemes.push({ lexeme, positions, inHeading });
    at++;
  }
  return lexemes;
}

const [QUOTE, BACKSLASH, SPACE, ZERO, LETTER_A] = [39, 92, 32, 48, 65];

function* batches(chunks: readonly ChunkText[]): Generator<ChunkText[]> {
  let batch: ChunkText[] = [];
  let length = 0;
  for (const chunk of chunks) {
    batch.push(chunk);
    length += chunk.content.length + chunk.heading.length;
    if (length < MAX_BATCH_LENGTH) continue;
    yield batch;
    batch = [];
    length = 0;
  }
  if (batch.length > 0) yield batch;
}
