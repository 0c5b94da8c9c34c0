/** The language of a text, and the text search configuration of Postgres that analyses it. */
import type { eld } from 'eld/small';

/**
 * Languages by ISO 639-1 code, each with its configuration. Postgres 14, the oldest that is served, has them all.
 *
 * Those with `simple` are written without spaces, or have no stemmer: segment.ts takes them apart.
 */
const CONFIGURATIONS = {
  ar: 'arabic',
  ca: 'catalan',
  da: 'danish',
  de: 'german',
  el: 'greek',
  en: 'english',
  es: 'spanish',
  eu: 'basque',
  fi: 'finnish',
  fr: 'french',
  hi: 'hindi',
  hu: 'hungarian',
  hy: 'armenian',
  it: 'italian',
  ja: 'simple',
  km: 'simple',
  ko: 'simple',
  lo: 'simple',
  lt: 'lithuanian',
  my: 'simple',
  nl: 'dutch',
  no: 'norwegian',
  pt: 'portuguese',
  ro: 'romanian',
  ru: 'russian',
  sr: 'serbian',
  sv: 'swedish',
  ta: 'tamil',
  th: 'simple',
  tr: 'turkish',
  yi: 'yiddish',
  zh: 'simple',
} as const;

/** `none`: another one, or too little text to tell. Its words are found as they are written. */
export type Language = keyof typeof CONFIGURATIONS | 'none';

export const LANGUAGES: readonly Language[] = [...(Object.keys(CONFIGURATIONS) as Language[]), 'none'];

/** The name of a text search configuration. */
export function configurationOf(language: Language): string {
  return language === 'none' ? 'simple' : CONFIGURATIONS[language];
}

/** Taken at the beginning, the middle and the end: a preface in another language does not decide. In UTF-16 units. */
const SAMPLE_LENGTH = 2_000;

/** Fewer letters than this, a title or a command, do not tell: "Apache License" would be French. */
const MIN_LETTERS = 25;

/**
 * How far the best language must be ahead of the second, times the number of letters. Scores are 0 to 1: neighbours
 * such as Danish and Norwegian are a few thousandths apart in a line, and still are in a page.
 */
const MIN_LEAD = 0.4;

/** A text has the language of a script when at least this share of its letters is in it: the rest are names and code. */
const MIN_SCRIPT_SHARE = 0.2;

/** Of letters in Han and Kana together; a Chinese text that quotes a Japanese name has less. */
const MIN_KANA_SHARE = 0.1;

const SCRIPTS: readonly (readonly [RegExp, Language])[] = [
  [/\p{Script=Hangul}/gu, 'ko'],
  [/\p{Script=Thai}/gu, 'th'],
  [/\p{Script=Lao}/gu, 'lo'],
  [/\p{Script=Khmer}/gu, 'km'],
  [/\p{Script=Myanmar}/gu, 'my'],
];

/** Code, tags and addresses are English in every document. */
const FOREIGN =
  /^(?<fence>```|~~~)[^\n]*\n[\s\S]*?^\k<fence>|`[^`\n]{1,200}`|<[^<>\n]{1,500}>|\b(?:https?|file):\/\/\S{1,2000}|\S{1,200}@\S{1,200}/gm;

/**
 * The language of a document. A few words in Latin letters are taken for English, which they mostly are: its
 * endings and its small words do little harm to another's.
 *
 * @param among only these come into question, for a short text such as a search
 * @returns `none` when no language is clearly ahead
 */
export async function detectLanguage(text: string, among?: readonly Language[]): Promise<Language> {
  const found = await Promise.all(samplesOf(text).map((sample) => detect(sample.replace(FOREIGN, ' '), among)));
  // Of three, that of two; otherwise that of the middle.
  const twice = found.find((language, index) => language !== 'none' && found.indexOf(language) !== index);
  const language = twice ?? found[found.length >> 1] ?? 'none';
  return language === 'none' && among === undefined && isLatin(text) ? 'en' : language;
}

function isLatin(text: string): boolean {
  const start = text.slice(0, SAMPLE_LENGTH);
  return count(start, /\p{Script=Latin}/gu) * 2 > count(start, /\p{L}/gu);
}

function samplesOf(text: string): string[] {
  if (text.length <= 3 * SAMPLE_LENGTH) return [text];
  const middle = Math.floor((text.length - SAMPLE_LENGTH) / 2);
  return [0, middle, text.length - SAMPLE_LENGTH].map((from) => text.slice(from, from + SAMPLE_LENGTH));
}

async function detect(text: string, among: readonly Language[] | undefined): Promise<Language> {
  const written = languageOfScript(text);
  if (written !== undefined) return among === undefined || among.includes(written) ? written : 'none';
  const letters = count(text, /\p{L}/gu);
  if (letters < MIN_LETTERS && among === undefined) return 'none';
  const detector = await loadDetector();
  // Where the package was left out at installation.
  if (detector === undefined) return 'none';
  const [best, second] = Object.entries(detector.detect(text).getScores())
    .filter(([code]) => among === undefined || (among as readonly string[]).includes(code))
    .sort(([, a], [, b]) => b - a);
  if (best === undefined) return 'none';
  const lead = best[1] - (second?.[1] ?? 0);
  if (lead === 0 || (among === undefined && lead * letters < MIN_LEAD)) return 'none';
  return best[0] in CONFIGURATIONS ? (best[0] as Language) : 'none';
}

/** The language that a script belongs to alone. Latin, Cyrillic and Arabic letters belong to many. */
function languageOfScript(text: string): Language | undefined {
  const letters = count(text, /\p{L}/gu);
  if (letters === 0) return undefined;
  for (const [script, language] of SCRIPTS) if (count(text, script) / letters >= MIN_SCRIPT_SHARE) return language;
  const kana = count(text, /[\p{Script=Hiragana}\p{Script=Katakana}]/gu);
  const han = count(text, /\p{Script=Han}/gu);
  if ((kana + han) / letters < MIN_SCRIPT_SHARE) return undefined;
  return kana / (kana + han) >= MIN_KANA_SHARE ? 'ja' : 'zh';
}

function count(text: string, pattern: RegExp): number {
  return text.match(pattern)?.length ?? 0;
}

let loading: Promise<typeof eld | undefined> | undefined;

/** 1.6 MB of n-grams, which take about 0.1 s to load: not before the first document comes. */
function loadDetector(): Promise<typeof eld | undefined> {
  loading ??= import('eld/small').then(
    (module) => module.eld,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ERR_MODULE_NOT_FOUND') return undefined;
      throw error;
    },
  );
  return loading;
}
