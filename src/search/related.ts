/**
 * Words of a collection that are related to a word of a question, by how they are written: "annulation" to "annuler",
 * "Reiserücktritt" to "Rücktritt". Stemmers take off endings and leave such words apart.
 *
 * Words that begin as the question's does are a range of the index. Where a language writes compounds as one word, so are
 * those that end as it does: long words are in the index a second time, from back to front. Its own parts, when the
 * question has the compound, are looked up one by one.
 *
 * Measured (`npm run bench -- retrieval`, held-out questions in German, French and Russian): 52 instead of 45 of 100 find
 * their passage.
 */
import type { Kysely } from 'kysely';
import type { Database } from '../db/schema.ts';
import { findRanges, type TermRange } from '../db/search.ts';
import type { Language } from './language.ts';
import { type BlockEntry, type PostingList, readEntries, termBytes, termOf } from './postings.ts';

/** Of a word of the question itself, the share that related words count. */
export const RELATED_WEIGHT = 0.3;

/** Letters that related words begin with alike: a share of the question's, and never fewer. */
const SHARED_START = 0.7;
const LEAST_START = 4;
/** Letters of a word that stands at the end or the beginning of a compound, and that the rest of it has. */
const LEAST_PART = 5;
const LEAST_REST = 3;
/** No word is longer; what is, is an address or a key. */
const MAX_WORD = 40;
/** Words of a question that are looked up, and blocks that are read for one, in all parts: 64 have about 130 KB. */
const MAX_WORDS = 24;
const MAX_BLOCKS = 64;

/** Before a word that is written from back to front. No lexeme begins with it. */
const BACKWARDS = '\u0001';

/** Languages that write compounds as one word. */
const COMPOUNDING: ReadonlySet<Language> = new Set<Language>(['da', 'de', 'fi', 'hu', 'nl', 'no', 'sv']);

/** Scripts with words of letters, whose beginnings are roots. */
const WORD = /^[\p{Script=Latin}\p{Script=Cyrillic}\p{Script=Greek}\p{Script=Armenian}]+$/u;

/** What a term stands for besides itself in the index: the same from back to front, for a word that may be a compound. */
export function backwardsTerm(lexeme: string, language: Language): string | undefined {
  if (!COMPOUNDING.has(language) || lexeme.length < LEAST_PART + LEAST_REST || lexeme.length > MAX_WORD)
    return undefined;
  return WORD.test(lexeme) ? termOf(BACKWARDS + reverse(lexeme)) : undefined;
}

/** The related words of one word. */
export interface Family {
  /** As they stand in the index. */
  lexemes: string[];
  /** Of each part, where any of them occurs. */
  lists: (PostingList | undefined)[];
}

/**
 * @param lexemes words of a question, the most important first
 * @param languages of the collection
 * @returns of each, its family; `undefined` where it has none, or one so large that it says nothing
 */
export async function findFamilies(
  db: Kysely<Database>,
  partIds: readonly number[],
  lexemes: readonly string[],
  languages: readonly Language[],
): Promise<(Family | undefined)[]> {
  const compounding = languages.some((language) => COMPOUNDING.has(language));
  const wanted: { word: number; range: TermRange; accepts: (term: string) => boolean }[] = [];
  for (const [word, lexeme] of lexemes.slice(0, MAX_WORDS).entries()) {
    if (lexeme.length < LEAST_START || lexeme.length > MAX_WORD || !WORD.test(lexeme)) continue;
    const own = termOf(lexeme);
    const startsWith = (prefix: string) =>
      wanted.push({ word, range: rangeOf(prefix, own), accepts: (term) => term !== own && term.startsWith(prefix) });
    startsWith(termOf(lexeme.slice(0, Math.max(LEAST_START, Math.ceil(SHARED_START * lexeme.length)))));
    if (!compounding) continue;
    if (lexeme.length >= LEAST_PART) startsWith(termOf(BACKWARDS + reverse(lexeme)));
    for (const part of partsOf(lexeme))
      wanted.push({ word, range: exactly(termOf(part), own), accepts: (term) => term === termOf(part) });
  }
  if (wanted.length === 0) return lexemes.map(() => undefined);
  const rows = await findRanges(
    db,
    partIds,
    wanted.map(({ range }) => range),
    MAX_BLOCKS,
  );
  const places = new Map(partIds.map((id, index) => [id, index]));
  const unions = lexemes.map((lexeme) => new Union(termOf(lexeme), partIds.length));
  for (const { partId, range, data } of rows) {
    const { word, accepts } = wanted[range] as (typeof wanted)[number];
    for (const entry of readEntries(data, accepts)) unions[word]?.add(places.get(partId) as number, entry);
  }
  return unions.map((union) => union.family());
}

function partsOf(lexeme: string): string[] {
  const parts: string[] = [];
  for (let length = LEAST_PART; length <= lexeme.length - LEAST_REST; length++)
    parts.push(lexeme.slice(0, length), lexeme.slice(-length));
  return parts;
}

function rangeOf(prefix: string, own: string): TermRange {
  const from = termBytes(prefix);
  const to = Buffer.from(from);
  // No byte of UTF-8 is 255.
  to[to.length - 1] = (to.at(-1) as number) + 1;
  return { from, to, except: termBytes(own) };
}

function exactly(term: string, own: string): TermRange {
  const from = termBytes(term);
  return { from, to: Buffer.concat([from, Buffer.of(0)]), except: termBytes(own) };
}

/** Puts the postings of several terms together: how often any of them occurs in a chunk. */
class Union {
  readonly #own: string;
  readonly #terms = new Set<string>();
  readonly #parts: Map<number, { frequency: number; length: number }>[];
  /** Of each term and part, what was added: a range and its neighbour may both bring it. */
  readonly #added = new Set<string>();

  constructor(own: string, parts: number) {
    this.#own = own;
    this.#parts = Array.from({ length: parts }, () => new Map());
  }

  add(part: number, { term, numbers, frequencies, lengths }: BlockEntry): void {
    const lexeme = term.startsWith(BACKWARDS) ? termOf(reverse(lexemeOf(term.slice(1)))) : term;
    const key = `${part} ${numbers[0]} ${lexeme}`;
    if (lexeme === this.#own || this.#added.has(key)) return;
    this.#added.add(key);
    this.#terms.add(lexeme);
    const chunks = this.#parts[part] as Map<number, { frequency: number; length: number }>;
    for (let at = 0; at < numbers.length; at++) {
      const number = numbers[at] as number;
      const frequency = (chunks.get(number)?.frequency ?? 0) + (frequencies[at] as number);
      chunks.set(number, { frequency, length: lengths[at] as number });
    }
  }

  family(): Family | undefined {
    if (this.#terms.size === 0) return undefined;
    return { lexemes: [...this.#terms].map(lexemeOf), lists: this.#parts.map(listOf) };
  }
}

function listOf(chunks: ReadonlyMap<number, { frequency: number; length: number }>): PostingList | undefined {
  if (chunks.size === 0) return undefined;
  const sorted = [...chunks].sort(([a], [b]) => a - b);
  return {
    numbers: Int32Array.from(sorted, ([number]) => number),
    frequencies: Uint8Array.from(sorted, ([, { frequency }]) => Math.min(255, frequency)),
    lengths: Uint8Array.from(sorted, ([, { length }]) => length),
  };
}

function lexemeOf(term: string): string {
  return Buffer.from(term, 'latin1').toString();
}

function reverse(word: string): string {
  return [...word].reverse().join('');
}
