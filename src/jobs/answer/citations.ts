/** Whether what an answer cites is there: the sources it names, and the words it quotes from them. */
import { z } from 'zod';

/** More are counted, not listed. */
const MAX_LISTED = 50;
/** Fewer words between quotation marks are a name or an emphasis. */
const LEAST_QUOTED_WORDS = 3;
const LEAST_QUOTED_LENGTH = 12;

export const citationsSchema = z.object({
  /** Marks such as `[2]` in the text, outside code. */
  total: z.number().int(),
  /** Those that do not hold. */
  invalid: z.number().int(),
  /** The first 50 of them. */
  problems: z.array(
    z.object({
      /** The number between the brackets. */
      n: z.number(),
      /** Where the mark stands in the text, in UTF-16 units. */
      at: z.number().int(),
      /** There is no source of this number, or it does not have the words that are quoted from it. */
      reason: z.enum(['no_such_source', 'quote_not_found']),
      /** What is quoted. */
      quote: z.string().optional(),
    }),
  ),
});

export type Citations = z.output<typeof citationsSchema>;

const MARK = /\[(\d{1,6})\]/g;
/** A quotation and the marks that follow it within the sentence. */
const QUOTATION =
  /(?:"([^"\n]{3,1000})"|[“„]([^“”„\n]{3,1000})[“”]|«([^«»\n]{3,1000})»|»([^«»\n]{3,1000})«|「([^「」\n]{2,1000})」)[^"“„«»「\n.!?。]{0,60}?[.!?。]?\s{0,2}((?:\[\d{1,6}\]\s?)+)/g;

/** @param sources texts by number, from 1; undefined: the quotations are right by construction */
export function checkCitations(text: string, count: number, sources: readonly string[] | undefined): Citations {
  const prose = withoutCode(text);
  const problems: Citations['problems'] = [];
  let total = 0;
  let invalid = 0;
  const report = (problem: Citations['problems'][number]): void => {
    invalid++;
    if (problems.length < MAX_LISTED) problems.push(problem);
  };
  const unquoted = sources === undefined ? new Map<number, string>() : findMisquotes(prose, sources);
  for (const match of prose.matchAll(MARK)) {
    // `[1](url)` and `[1]: url` are links.
    if (/^(?:\(|:\s)/.test(prose.slice(match.index + match[0].length, match.index + match[0].length + 2))) continue;
    total++;
    const n = Number(match[1]);
    const quote = unquoted.get(match.index);
    if (n < 1 || n > count) report({ n, at: match.index, reason: 'no_such_source' });
    else if (quote !== undefined) report({ n, at: match.index, reason: 'quote_not_found', quote: quote.slice(0, 200) });
  }
  return { total, invalid, problems };
}

/** Quotations that none of the sources they name has, by the place of each mark. */
function findMisquotes(prose: string, sources: readonly string[]): Map<number, string> {
  const misquotes = new Map<number, string>();
  const plain = sources.map(comparable);
  for (const match of prose.matchAll(QUOTATION)) {
    const quote = match[1] ?? match[2] ?? match[3] ?? match[4] ?? match[5] ?? '';
    const marks = match[6] as string;
    const words = comparable(quote);
    const isIdeographic = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u.test(words);
    if (!isIdeographic && (words.length < LEAST_QUOTED_LENGTH || words.split(' ').length < LEAST_QUOTED_WORDS))
      continue;
    const cited = [...marks.matchAll(MARK)];
    const parts = quote
      .split(/\s*(?:…|\.{3}|\[…\]|\[\.{3}\])\s*/)
      .map(comparable)
      .filter((part) => part !== '');
    const holds = cited.some(([, n]) => {
      const source = plain[Number(n) - 1];
      return source !== undefined && parts.every((part) => source.includes(part));
    });
    if (holds) continue;
    const start = match.index + match[0].length - marks.length;
    for (const mark of cited) misquotes.set(start + mark.index, quote);
  }
  return misquotes;
}

/** What of two texts must be equal for one to quote the other: no emphasis, one kind of quotation marks, one space. */
function comparable(text: string): string {
  return text
    .normalize('NFKC')
    .toLowerCase()
    .replace(/[*_`]|\[([^\]]*)\]\([^)]*\)/g, '$1')
    .replace(/[“”„«»"]/g, '"')
    .replace(/[‘’‚']/g, "'")
    .replace(/\s+/g, ' ')
    .replace(/^[\s,;:.!?]+|[\s,;:.!?]+$/g, '');
}

/** Code with spaces in its place, so that offsets stay. */
function withoutCode(text: string): string {
  const blank = (code: string): string => code.replace(/[^\n]/g, ' ');
  return text
    .replace(/^([ \t]*)(`{3,}|~{3,})[^\n]*\n[\s\S]*?(?:^[ \t]*\2[ \t]*$|(?![\s\S]))/gm, blank)
    .replace(/(`+)(?!`)[^\n]*?[^`\n]\1(?!`)/g, blank);
}
