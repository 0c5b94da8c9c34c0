/**
 * Texts in six languages, and questions about them as people ask: in their own words.
 *
 * `texts/<language>/<corpus>.md` has a passage below each `##`. A line of `questions/<language>.txt` names the corpus
 * and the passage that answers, by its place from 1, and then asks.
 */
import { readFile } from 'node:fs/promises';

export const LANGUAGES = ['en', 'de', 'fr', 'ru', 'zh', 'ja'] as const;
export type Language = (typeof LANGUAGES)[number];

const CORPORA = ['bees', 'insurance', 'handbook'] as const;
/** Whoever tunes the ranking looks at the questions about these alone. */
const TUNING: readonly string[] = ['bees'];

export type Part = 'held-out' | 'tuning';

export interface Question {
  language: Language;
  part: Part;
  text: string;
  expected: Place;
}

/** Where a passage stands. */
export interface Place {
  path: string;
  /** Its own, without those above it. */
  heading: string;
}

interface Document {
  path: string;
  content: string;
}

export function readDocuments(language: Language): Promise<Document[]> {
  return Promise.all(
    CORPORA.map(async (corpus) => {
      const path = pathOf(language, corpus);
      return { path, content: await readText(`texts/${path}`) };
    }),
  );
}

/** @throws Error a line names no passage */
export async function readQuestions(language: Language): Promise<Question[]> {
  const headings = new Map(
    (await readDocuments(language)).map(({ path, content }) => [
      path,
      [...content.matchAll(/^## (.+)$/gm)].map(([, heading]) => heading as string),
    ]),
  );
  const lines = (await readText(`questions/${language}.txt`)).trimEnd().split('\n');
  return lines.map((line): Question => {
    const [, corpus = '', number, text = ''] = /^(\w+) (\d+) (.+)$/.exec(line) ?? [];
    const path = pathOf(language, corpus);
    const heading = headings.get(path)?.[Number(number) - 1];
    if (heading === undefined) throw new Error(`questions/${language}.txt names no passage: ${line}`);
    return { language, part: TUNING.includes(corpus) ? 'tuning' : 'held-out', text, expected: { path, heading } };
  });
}

function pathOf(language: Language, corpus: string): string {
  return `${language}/${corpus}.md`;
}

function readText(path: string): Promise<string> {
  return readFile(new URL(path, import.meta.url), 'utf8');
}
