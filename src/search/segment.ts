/**
 * Prepares a text for Postgres's text search parser, which takes words to be what stands between spaces and marks.
 *
 * Chinese, Japanese and Korean words have no space between them, or endings that no stemmer of Postgres takes off:
 * each pair of neighbouring characters becomes a word, and so does each Chinese character: it has a meaning of its own, and
 * a question shares it with a passage that has other words (measured: 70 instead of 45 of 100 questions find theirs). Thai, Lao, Khmer and Burmese are taken apart by the
 * dictionaries of ICU. What is written in several ways becomes one: half and full width, ligatures, capital letters,
 * quotation marks, invisible characters. So the words do not depend on the locale of the database.
 */
import type { Language } from './language.ts';

/**
 * Korean, Chinese and Japanese, with the marks that repeat or lengthen a character. A longer run is taken in pieces:
 * it is no sentence, and one match may not be as long as a document.
 */
const PAIRED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}々〆ー]{1,1000}/gu;

const IDEOGRAPH = /\p{Unified_Ideograph}/u;

/** The segmenter's time grows faster than its text. */
const BY_DICTIONARY = /[\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]{1,1000}/gu;

/** Soft hyphens, joiners, marks of direction: drawn as nothing inside a word. */
const INVISIBLE = /\p{Default_Ignorable_Code_Point}/gu;

const APOSTROPHES = /[\u2018\u2019\u201a\u201b\u02bc\u2032\u00b4`]/gu;

/** With the space without width. Those of ASCII are the parser's: they make addresses, versions and compounds. */
const PUNCTUATION = /(?!\p{ASCII})\p{P}|\u200b/gu;
const MARKS = /(?!\p{ASCII})[\p{P}\p{S}\p{Z}]/gu;

/** NFKC takes these vowels apart; the dictionaries have them whole. */
const VOWELS = /\u0e4d\u0e32|\u0ecd\u0eb2/g;

const segmenters = new Map<string, Intl.Segmenter>();

/** @returns text for `to_tsvector` and the configuration of the language; O(length) */
export function segment(text: string, language: Language): string {
  // An ellipsis would become three dots of ASCII.
  const marked = text.replace(APOSTROPHES, "'").replace(PUNCTUATION, ' ');
  const folded = lowerCase(marked.normalize('NFKC').replace(INVISIBLE, ''), language)
    .replace(MARKS, ' ')
    .replace(VOWELS, (pair) => (pair.startsWith('\u0e4d') ? '\u0e33' : '\u0eb3'));
  return folded
    .replace(PAIRED, (run) => ` ${pairs(run)} `)
    .replace(BY_DICTIONARY, (run) => ` ${words(run, language)} `);
}

/** Of Turkish, I is the capital of the letter without a dot. */
function lowerCase(text: string, language: Language): string {
  return language === 'tr' ? text.toLocaleLowerCase('tr') : text.toLowerCase();
}

function pairs(run: string): string {
  const characters = [...run];
  if (characters.length === 1) return run;
  let joined = '';
  for (let index = 1; index < characters.length; index++)
    joined += `${index === 1 ? '' : ' '}${characters[index - 1]}${characters[index]}`;
  for (const character of characters) if (IDEOGRAPH.test(character)) joined += ` ${character}`;
  return joined;
}

function words(run: string, language: Language): string {
  let segmenter = segmenters.get(language);
  if (segmenter === undefined) {
    segmenter = new Intl.Segmenter(language === 'none' ? undefined : language, { granularity: 'word' });
    segmenters.set(language, segmenter);
  }
  return Array.from(segmenter.segment(run), ({ segment: word }) => word).join(' ');
}
