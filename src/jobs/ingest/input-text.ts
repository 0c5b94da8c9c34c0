/** Checks of text that goes into Postgres `text` columns, shared by `ingest` and `answer`. */
import { z } from 'zod';

/** Its unique index holds a collection's id too and must stay below a third of a page. */
const MAX_PATH_BYTES = 1_024;

/** Names are typed into commands and URLs, so they are short and have no surprises. */
export const collectionName = z
  .string()
  .min(1)
  .max(100)
  .refine((name) => name.isWellFormed() && !hasControl(name) && name === name.trim(), {
    message: 'expected 1 to 100 characters without control characters or blanks around',
  });

export function checkPath(path: string, ctx: { addIssue(issue: { code: 'custom'; message: string }): void }): void {
  const add = (message: string): void => ctx.addIssue({ code: 'custom', message });
  if (path.trim() === '') add('is empty');
  else if (hasControl(path)) add('has control characters');
  else if (!path.isWellFormed()) add('has half of a surrogate pair');
  else if (Buffer.byteLength(path) > MAX_PATH_BYTES) add(`is longer than ${MAX_PATH_BYTES} bytes`);
}

/** Reports what Postgres would refuse as text, or what has nothing to find in it. */
export function checkText(text: string, add: (message: string) => void): void {
  const problem = characterProblem(text);
  if (problem !== undefined) add(problem);
  else if (/^[\s\uFEFF]*$/.test(text)) add('has no text in it');
}

/** What Postgres would refuse of a text, as the end of a sentence about it. */
export function characterProblem(text: string): string | undefined {
  const nul = text.indexOf('\0');
  if (nul !== -1) return `has a NUL character at offset ${nul}: it is not a text file`;
  if (text.isWellFormed()) return undefined;
  return `has half of a surrogate pair at offset ${firstLoneSurrogate(text)}: it is not valid Unicode`;
}

function hasControl(text: string): boolean {
  return /\p{Cc}/u.test(text);
}

function firstLoneSurrogate(text: string): number {
  return text.search(/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/);
}
