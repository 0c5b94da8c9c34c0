/**
 * The built-in answerer: no model, only the passages that fit a question best, quoted as
 * they stand.
 *
 * The retrieved chunks are cut into passages (a paragraph, a list, a table, a code block),
 * each scored by the question's words in it and by the heading above it; the best are
 * quoted, in the order of their documents.
 */
import type { Kysely } from 'kysely';
import { findAbsentWords } from '../../db/chunks.ts';
import type { Database } from '../../db/schema.ts';
import { analyseTexts } from '../../search/analysis.ts';
import { detectLanguage, type Language } from '../../search/language.ts';
import type { RetrievedChunk } from '../../search/retriever.ts';
import { readBlocks } from '../ingest/markdown.ts';
import { splitSentences } from '../ingest/sentences.ts';
import type { QueryTerm, Retrieval } from './retrieval.ts';
import { type Source, toSource } from './sources.ts';

/** A longer paragraph is quoted by sentences, a longer list by items. In UTF-16 units. */
const MAX_PASSAGE_LENGTH = 480;
/** A longer code block is cut at a line. */
const MAX_CODE_LENGTH = 1_000;
/** What is quoted besides code, all together. */
const MAX_QUOTED_LENGTH = 3_000;
const MAX_PASSAGES = 8;
const MAX_CODE_BLOCKS = 3;
const MAX_QUOTED_CHUNKS = 6;
/** So many of the best chunks are quoted, each by the passage of it that fits best. */
const BEST_CHUNKS = 5;
/** A passage that scores less than this share of the best is left out. */
const LEAST_SHARE = 0.3;
/** With less of the question's words than this, quoting would only pretend to know. */
const LEAST_COVERAGE = 0.15;
/** How long all texts of a collection may be read to find out that a word is not in them. */
const ABSENCE_LIMIT_MS = 150;
const MAX_MISSING_WORDS = 5;
const MAX_QUESTION_WORDS = 200;
/** Scripts that put no spaces between words: what a regular expression takes for a word is a phrase. */
const UNSPACED =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u;

/** Two passages that share more of their words say the same. */
const SAME_SHARE = 0.7;
/** Of the best chunks a passage is left out only if it shares so much: search had a reason to give both. */
const REPEATED_SHARE = 0.95;

/** Questions that an example answers. */
const USAGE =
  /\b(how|example|usage|use|using|configure|config|write|code|snippet|enable|set|setup|install|create|call|log|add|run|make)\b/i;
const DEFINITION = /^\s*(?:what(?:'s| is| are)|define|explain)\b/i;
/** How sentences begin that say what a thing is. */
const DEFINES = /\b(?:is|are) (?:a|an|the|used|for)\b|\b(?:means|provides|allows|enables|can be used|lets)\b/i;
/** Words that point back: quoted alone, the passage would not make sense. */
const POINTS_BACK =
  /^(?:this|it|they|these|those|that|however|also|such|then|therefore|otherwise|additionally|furthermore|instead)\b/i;

interface Extract {
  text: string;
  /** What `text` cites, numbered in the order it does. */
  sources: Source[];
}

interface Passage {
  kind: 'text' | 'list' | 'table' | 'code';
  text: string;
  chunk: number;
  /** Place in the chunk. */
  place: number;
  lexemes: ReadonlySet<string>;
  score: number;
}

export async function extractAnswer(
  db: Kysely<Database>,
  options: { question: string; collection: string; collectionId: string; retrieval: Retrieval },
): Promise<Extract> {
  const { question, collection, retrieval } = options;
  const missing = await missingWords(db, options);
  if (retrieval.chunks.length === 0 || retrieval.coverage < LEAST_COVERAGE)
    return { text: nothingFound(collection, missing), sources: [] };

  const passages = await scorePassages(db, question, retrieval);
  const picked = pickPassages(passages, question, retrieval.chunks);
  if (picked.length === 0) return { text: nothingFound(collection, missing), sources: [] };
  return writeExtract(picked, retrieval.chunks, collection, missing);
}

/** What is said when the search finds nothing, with or without a model. */
export function nothingFound(collection: string, missing: readonly string[]): string {
  const words = missing.length === 0 ? '' : ` It never mentions ${wordList(missing)}.`;
  return `Nothing in the collection "${collection}" answers this question.${words} Try other words, or ingest documents about it.`;
}

/**
 * The question's words that the collection's texts do not have, as they were written: nowhere, not even inside another
 * word. None where looking would take too long.
 */
export async function missingWords(
  db: Kysely<Database>,
  { question, collectionId, retrieval }: { question: string; collectionId: string; retrieval: Retrieval },
): Promise<string[]> {
  if (retrieval.unknown.length === 0) return [];
  const written = [...new Set(question.match(/[\p{L}\p{M}\p{N}]+/gu) ?? [])]
    .filter((word) => !UNSPACED.test(word))
    .slice(0, MAX_QUESTION_WORDS);
  const missing = new Set<string>();
  for (const language of new Set(retrieval.unknown.map((word) => word.language))) {
    const names = new Set(retrieval.unknown.filter((word) => word.language === language).map(({ name }) => name));
    const lexemes = await analyseTexts(
      db,
      written.map((content) => ({ language, heading: '', content })),
    );
    for (const [index, word] of written.entries())
      if (lexemes[index]?.some(({ lexeme }) => names.has(lexeme))) missing.add(word);
  }
  // Where no document is in the question's own language, nothing has dropped its stop words.
  for (const language of new Set([await detectLanguage(question), 'en' as const])) {
    const lexemes = await analyseTexts(
      db,
      written.map((content) => ({ language, heading: '', content })),
    );
    for (const [index, word] of written.entries()) if (lexemes[index]?.length === 0) missing.delete(word);
  }
  const words = written.filter((word) => missing.has(word));
  const byFolded = new Map(words.slice(0, MAX_MISSING_WORDS).map((word) => [fold(word), word]));
  const absent = await findAbsentWords(db, {
    collectionId,
    words: [...byFolded.keys()],
    limitMs: ABSENCE_LIMIT_MS,
  });
  return absent.map((word) => byFolded.get(word) as string);
}

function fold(word: string): string {
  return word.normalize('NFKC').toLowerCase().replaceAll('ß', 'ss');
}

async function scorePassages(db: Kysely<Database>, question: string, retrieval: Retrieval): Promise<Passage[]> {
  const { chunks, terms } = retrieval;
  const raw = chunks.flatMap((chunk, index) =>
    splitPassages(chunk.content).map((passage, place) => ({ ...passage, chunk: index, place })),
  );
  const languageOf = (chunk: number) => chunks[chunk]?.language as Language;
  const texts = [
    ...raw.map(({ text, chunk }) => ({ language: languageOf(chunk), heading: '', content: text })),
    ...chunks.map(({ heading }, chunk) => ({ language: languageOf(chunk), heading: '', content: heading })),
  ];
  const lexemes = (await analyseTexts(db, texts)).map((list) => new Set(list.map(({ lexeme }) => lexeme)));
  const best = chunks[0]?.score ?? 1;
  const isDefinition = DEFINITION.test(question);
  return raw.map((passage, index): Passage => {
    const own = lexemes[index] as Set<string>;
    const heading = lexemes[raw.length + passage.chunk] as Set<string>;
    const chunk = chunks[passage.chunk] as RetrievedChunk;
    const ownWeight = weightOf(own, terms);
    // The heading says what a passage is about; one without a word of the question is rarely the answer under it.
    let score = ownWeight + (ownWeight > 0 || passage.place === 0 ? 0.5 : 0.2) * weightOf(heading, terms, own);
    score *= Math.sqrt(chunk.score / best);
    // A passage with two words more of the question's need not lose to a short one with them alone.
    score /= 1 + Math.max(0, own.size - 30) / 120;
    if (passage.place === 0) score *= 1.15;
    if (isDefinition && passage.kind === 'text' && DEFINES.test(passage.text)) score *= passage.place === 0 ? 1.5 : 1.2;
    if (passage.kind === 'code' || passage.kind === 'table') score *= 0.6;
    if (!isContent(passage.text)) score = 0;
    return { ...passage, lexemes: own, score };
  });
}

function weightOf(lexemes: ReadonlySet<string>, terms: readonly QueryTerm[], except?: ReadonlySet<string>): number {
  const byMeaning = new Map<string, number>();
  for (const { lexeme, weight, standsFor } of terms) {
    if (!lexemes.has(lexeme) || except?.has(lexeme) === true) continue;
    byMeaning.set(standsFor, Math.max(byMeaning.get(standsFor) ?? 0, weight));
  }
  return [...byMeaning.values()].reduce((sum, weight) => sum + weight, 0);
}

/** Text of links, or of a pointer elsewhere, alone answers nothing. */
function isContent(text: string): boolean {
  const without = withoutLinkTargets(text)
    .replace(/<[^<>]*>/g, '')
    .replace(/\[[^\]]*\]\([^)]*\)/g, '')
    .replace(/^\s*(?:[-*+]\s+)?(?:see|default|type)\b.*$/gim, '');
  return (without.match(/[\p{L}\p{N}]{2,}/gu) ?? []).length >= 3;
}

function splitPassages(content: string): Pick<Passage, 'kind' | 'text'>[] {
  return readBlocks(content.split('\n')).flatMap((block): Pick<Passage, 'kind' | 'text'>[] => {
    const { kind, text } = block;
    if (kind === 'heading') return [{ kind: 'text', text }];
    if (kind === 'code' || kind === 'table' || text.length <= MAX_PASSAGE_LENGTH) return [{ kind, text }];
    const parts = kind === 'list' ? text.split(/\n(?=(?:[-*+]|\d{1,9}[.)])[ \t])/) : splitSentences(text);
    return joinParts(parts, kind === 'list' ? '\n' : ' ').map((part) => ({ kind, text: part }));
  });
}

function joinParts(parts: readonly string[], joint: string): string[] {
  const joined: string[] = [];
  for (const part of parts) {
    const last = joined.at(-1);
    if (last !== undefined && last.length + part.length < MAX_PASSAGE_LENGTH * 0.75)
      joined[joined.length - 1] = last + joint + part;
    else joined.push(part);
  }
  return joined;
}

/** The best passages, with what they need to be understood: what they announce, and what they point back to. */
function pickPassages(passages: readonly Passage[], question: string, retrieved: readonly RetrievedChunk[]): Passage[] {
  const at = (chunk: number, place: number): Passage | undefined =>
    passages.find((other) => other.chunk === chunk && other.place === place);
  const ranked = passages
    .filter(({ score }) => score > 0)
    .sort((a, b) => b.score - a.score || a.chunk - b.chunk || a.place - b.place);
  const least = (ranked[0]?.score ?? 0) * LEAST_SHARE;
  const wantsCode = USAGE.test(question);
  const picked = new Set<Passage>();
  const chosen = new Set<Passage>();
  const chunks = new Set<number>();
  let length = 0;
  let codeBlocks = 0;
  let count = 0;

  const add = (passage: Passage | undefined): void => {
    if (passage === undefined || picked.has(passage)) return;
    if (passage.kind === 'code') {
      if (codeBlocks === MAX_CODE_BLOCKS) return;
      codeBlocks++;
    } else length += passage.text.length;
    picked.add(passage);
    chunks.add(passage.chunk);
  };

  // What search put first is quoted even where its words are those of its heading only.
  const first = [...retrieved.keys()]
    .slice(0, BEST_CHUNKS)
    .map((chunk) => ranked.find((passage) => passage.chunk === chunk) ?? at(chunk, 0));
  for (const passage of new Set([...first, ...ranked])) {
    if (passage === undefined) continue;
    if (count === MAX_PASSAGES) break;
    if (passage.score < least && !first.includes(passage)) break;
    if (!chunks.has(passage.chunk) && chunks.size === MAX_QUOTED_CHUNKS) continue;
    if (picked.has(passage) || (length + passage.text.length > MAX_QUOTED_LENGTH && !first.includes(passage))) continue;
    if (passage.kind === 'code' && (codeBlocks === MAX_CODE_BLOCKS || passage.text.length > 2 * MAX_CODE_LENGTH))
      continue;
    const most = first.includes(passage) ? REPEATED_SHARE : SAME_SHARE;
    if ([...picked].some((other) => overlap(other.lexemes, passage.lexemes) > most)) continue;
    count++;
    chosen.add(passage);
    const before = at(passage.chunk, passage.place - 1);
    if (before !== undefined && (announces(before) || (POINTS_BACK.test(passage.text) && before.kind !== 'code')))
      add(before);
    add(passage);
    // What follows goes with it: what it announces always, an example when the question is about usage.
    for (let place = passage.place + 1, last: Passage = passage; ; place++) {
      const next = at(passage.chunk, place);
      if (next === undefined) break;
      const isExample = wantsCode && next.kind === 'code' && last.kind !== 'code';
      const duplicate = [...picked].some((other) => overlap(other.lexemes, next.lexemes) > SAME_SHARE);
      if (duplicate || !(announces(last) || isExample) || next.text.length > 2 * MAX_CODE_LENGTH) break;
      add(next);
      last = next;
    }
  }
  return [...picked]
    .filter(
      (passage) =>
        chosen.has(passage) || !announces(passage) || picked.has(at(passage.chunk, passage.place + 1) as Passage),
    )
    .sort((a, b) => a.chunk - b.chunk || a.place - b.place);
}

function announces(passage: Passage): boolean {
  return passage.kind === 'text' && /:[\s*_`]*$/.test(passage.text);
}

function overlap(a: ReadonlySet<string>, b: ReadonlySet<string>): number {
  const smaller = Math.min(a.size, b.size);
  return smaller < 4 ? 0 : [...a].filter((lexeme) => b.has(lexeme)).length / Math.max(a.size, b.size);
}

function writeExtract(
  picked: readonly Passage[],
  chunks: readonly RetrievedChunk[],
  collection: string,
  missing: readonly string[],
): Extract {
  const sources: Source[] = [];
  const parts = [
    `No model is configured, so these are the passages of "${collection}" that fit the question best, quoted as they stand.`,
  ];
  if (missing.length > 0) parts.push(`The collection never mentions ${wordList(missing)}.`);
  let heading: string | undefined;
  for (const index of quotingOrder(picked)) {
    const chunk = chunks[index] as RetrievedChunk;
    const n = sources.length + 1;
    sources.push(toSource(n, chunk));
    const title = `**${chunk.heading.replaceAll('**', '')}** (${chunk.path})`;
    if (title !== heading) parts.push(title);
    heading = title;
    const passages = picked.filter((passage) => passage.chunk === index);
    const cited = passages.findLast(({ kind }) => kind === 'text') ?? passages.findLast(({ kind }) => kind === 'list');
    for (const [at, passage] of passages.entries()) {
      const next = passages[at + 1];
      const isCut = next === undefined ? announces(passage) : next.place > passage.place + 1;
      parts.push(quote(passage, `${isCut ? ' […]' : ''}${passage === cited ? ` [${n}]` : ''}`));
    }
    if (cited === undefined) parts.push(`[${n}]`);
  }
  return { text: parts.join('\n\n'), sources };
}

/** Best chunk first, as search found them. */
function quotingOrder(picked: readonly Passage[]): number[] {
  return [...new Set(picked.map(({ chunk }) => chunk))].sort((a, b) => a - b);
}

/** Prose as a block quote; code, lists and tables as they are, which is how Markdown shows them best. */
function quote(passage: Passage, suffix: string): string {
  if (passage.kind === 'code') return cutCode(passage.text);
  const text = withoutLinkTargets(passage.text)
    .replace(/<a\s[^>]*>|<\/a>/gi, '')
    .trimEnd();
  if (passage.kind === 'text') return text.replace(/^[ \t]*>?[ \t]?/gm, '> ') + suffix;
  return text + (passage.kind === 'list' ? suffix : '');
}

/** Without lines like `[name]: https://…`. */
function withoutLinkTargets(text: string): string {
  return text.replace(/^ {0,3}\[[^\]]+\]:[ \t]*\S+.*(?:\n|$)/gm, '');
}

function cutCode(text: string): string {
  if (text.length <= MAX_CODE_LENGTH) return text;
  const lines = text.split('\n');
  const fence = /^[ \t]*(`{3,}|~{3,})/.exec(lines[0] as string)?.[1];
  const kept: string[] = [];
  let length = 0;
  for (const line of lines) {
    length += line.length + 1;
    if (kept.length > 0 && length > MAX_CODE_LENGTH) break;
    kept.push(line);
  }
  return [...kept, '…', ...(fence === undefined ? [] : [fence])].join('\n');
}

function wordList(words: readonly string[]): string {
  return words.map((word) => `"${word}"`).join(', ');
}
