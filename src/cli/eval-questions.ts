/** The questions of `oncefleet eval`: a JSON array, or an object a line. */
import { z } from 'zod';
import { inputInvalid, OncefleetError } from '../errors.ts';

const MAX_QUESTION_LENGTH = 4_000;
/** A question set, in bytes. */
export const MAX_QUESTIONS_BYTES = 64 * 1024 * 1024;
const MAX_NAMED_LINES = 5;

const text = z.string().min(1);

const questionSchema = z
  .strictObject({
    question: text.max(MAX_QUESTION_LENGTH),
    /** In place of `--collection`. */
    collection: text.optional(),
    /** Of the document that answers it. */
    path: text.optional(),
    /** Of the passage that answers it: its own heading, or any above it. */
    heading: text.optional(),
    /** What the answer has in it, whatever the case; with `--retrieve-only`, a passage that was found. */
    words: z.union([text, z.array(text).min(1)]).optional(),
  })
  .refine(({ path, heading, words }) => path !== undefined || heading !== undefined || words !== undefined, {
    message: 'says nothing of what is right: give it `path`, `heading` or `words`',
  });

export interface EvalQuestion {
  /** Its place in the file, from 1: a line, or an item. */
  line: number;
  question: string;
  collection: string;
  path: string | undefined;
  heading: string | undefined;
  words: readonly string[];
}

/** @throws OncefleetError INPUT_INVALID with each place and field */
export function readQuestions(file: string, content: string, collection: string | undefined): EvalQuestion[] {
  const { what, values } = parse(file, content);
  const issues: { path: PropertyKey[]; message: string }[] = [];
  const questions = values.flatMap(({ line, value }): EvalQuestion[] => {
    const parsed = questionSchema.safeParse(value);
    if (!parsed.success) {
      issues.push(...parsed.error.issues.map(({ path, message }) => ({ path: [`${what} ${line}`, ...path], message })));
      return [];
    }
    const { question, path, heading, words } = parsed.data;
    const own = parsed.data.collection ?? collection;
    if (own === undefined) {
      issues.push({ path: [`${what} ${line}`, 'collection'], message: 'is missing: name it here or by --collection' });
      return [];
    }
    const listed = words === undefined ? [] : [words].flat();
    return [{ line, question, collection: own, path, heading, words: listed }];
  });
  if (issues.length > 0) throw inputInvalid(file, issues);
  if (questions.length === 0) throw new OncefleetError('INPUT_INVALID', `${file} has no question`);
  return questions;
}

function parse(file: string, content: string): { what: string; values: { line: number; value: unknown }[] } {
  const trimmed = content.replace(/^\uFEFF/, '').trimStart();
  if (trimmed.startsWith('[')) {
    const list = parseJson(trimmed, (why) => `${file}: ${why}`) as unknown[];
    return { what: 'item', values: list.map((value, index) => ({ line: index + 1, value })) };
  }
  const wrong: string[] = [];
  const values = content.split('\n').flatMap((line, index) => {
    if (line.trim() === '' || line.trim() === '\uFEFF') return [];
    try {
      return [{ line: index + 1, value: JSON.parse(line.replace(/^\uFEFF/, '')) as unknown }];
    } catch (error) {
      wrong.push(`line ${index + 1}: ${(error as Error).message}`);
      return [];
    }
  });
  if (wrong.length > 0) {
    const more = wrong.length > MAX_NAMED_LINES ? `; and ${wrong.length - MAX_NAMED_LINES} more` : '';
    throw new OncefleetError('INPUT_INVALID', `${file}: ${wrong.slice(0, MAX_NAMED_LINES).join('; ')}${more}`);
  }
  return { what: 'line', values };
}

function parseJson(text: string, say: (why: string) => string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new OncefleetError('INPUT_INVALID', say((error as Error).message), { cause: error });
  }
}
