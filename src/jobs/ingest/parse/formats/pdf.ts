/** PDF: the text of each page, in paragraphs, with headings by the size of their letters. */
import { DocumentError } from '../../../../errors.ts';
import type { Block } from '../../blocks.ts';
import type { BinaryFormat, Parsed } from '../format.ts';
import type { DocumentLimits } from '../limits.ts';
import { loadPackage } from '../packages.ts';
import { dropRunningLines, linesOf, type PdfItem, type PdfLine } from './pdf-lines.ts';

/** Letters this much larger than those of the body make a heading. */
const HEADING_SIZE = 1.15;
const MAX_HEADING_LENGTH = 200;
/** A gap between lines is that of a paragraph when it is this much of the usual one. */
const PARAGRAPH_GAP = 1.35;
const MAX_HEADING_LEVEL = 4;

export const PDF: BinaryFormat = {
  kind: 'pdf',
  from: 'bytes',
  extensions: ['.pdf'],
  mediaTypes: ['application/pdf', 'application/x-pdf'],
  parse: parsePdf,
};

async function parsePdf(bytes: Uint8Array, limits: DocumentLimits): Promise<Parsed> {
  const { getDocumentProxy } = await loadPackage('unpdf', () => import('unpdf'));
  // Scripts, forms and fonts of a document are of no use here.
  const options = { isEvalSupported: false, enableXfa: false, useSystemFonts: false, verbosity: 0 };
  const pdf = await getDocumentProxy(bytes, options).catch((error: unknown) => {
    throw toDocumentError(error);
  });
  if (pdf.numPages > limits.maxPages)
    throw new DocumentError('DOCUMENT_TOO_LARGE', `has ${pdf.numPages} pages; the limit is ${limits.maxPages}`);
  const pages: PdfLine[][] = [];
  let length = 0;
  for (let number = 1; number <= pdf.numPages; number++) {
    const lines = await readPage(pdf, number);
    pages.push(lines);
    length += lines.reduce((sum, { text }) => sum + text.length + 1, 0);
    if (length > limits.maxTextLength)
      throw new DocumentError('DOCUMENT_TOO_LARGE', `has more than ${limits.maxTextLength} characters of text`);
  }
  if (length === 0)
    throw new DocumentError('DOCUMENT_SCANNED', `has ${pagesOf(pdf.numPages)}, but no text: they are images`);
  const { info } = await pdf.getMetadata().catch(() => ({ info: {} }));
  const { text, blocks } = toBlocks(dropRunningLines(pages));
  const title = titleOf(info) ?? blocks.find(({ kind }) => kind === 'heading')?.text;
  return { title, text, blocks, pages: pdf.numPages };
}

interface PdfDocument {
  getPage(number: number): Promise<{ getTextContent(): Promise<{ items: unknown[] }>; cleanup(): unknown }>;
}

/** A page that cannot be read makes the document damaged: it would be missing without a word. */
async function readPage(pdf: PdfDocument, number: number): Promise<PdfLine[]> {
  try {
    const page = await pdf.getPage(number);
    const { items } = await page.getTextContent();
    page.cleanup();
    return linesOf(items as PdfItem[]);
  } catch (error) {
    throw new DocumentError('DOCUMENT_DAMAGED', `cannot be read at page ${number}: ${(error as Error).message}`);
  }
}

function toDocumentError(error: unknown): Error {
  const { name, message } = error as Error;
  if (name === 'PasswordException')
    return new DocumentError('DOCUMENT_ENCRYPTED', 'cannot be opened without a password');
  return new DocumentError('DOCUMENT_DAMAGED', `is damaged or cut off: ${message}`);
}

/** Writers put the name of a file, or of themselves, where no title was given. */
function titleOf(info: object): string | undefined {
  const given = (info as { Title?: unknown }).Title;
  if (typeof given !== 'string') return undefined;
  const title = given.replaceAll('\0', '').toWellFormed().replace(/\s+/g, ' ').trim().slice(0, 300);
  return title === '' || /^(?:untitled|microsoft word\b.*|.*\.(?:docx?|pdf|indd|tex|dvi|html?))$/i.test(title)
    ? undefined
    : title;
}

function toBlocks(pages: readonly (readonly PdfLine[])[]): { text: string; blocks: Block[] } {
  const levels = headingLevels(pages);
  const blocks: Block[] = [];
  const out: string[] = [];
  let at = 0;
  for (const [index, lines] of pages.entries()) {
    for (const { lines: group, level } of paragraphsOf(lines, levels)) {
      const text = joinLines(group, level === undefined ? '\n' : ' ');
      const place = { start: at, end: at + text.length, page: index + 1 };
      if (level !== undefined && text.length <= MAX_HEADING_LENGTH)
        blocks.push({ kind: 'heading', level, text, ...place });
      else blocks.push({ kind: 'text', text, ...place });
      out.push(text);
      at += text.length + 2;
    }
  }
  return { text: out.join('\n\n'), blocks };
}

/** The level of each size that is larger than the body's: the largest is 1. */
function headingLevels(pages: readonly (readonly PdfLine[])[]): ReadonlyMap<number, number> {
  const letters = new Map<number, number>();
  for (const { size, text } of pages.flat()) letters.set(size, (letters.get(size) ?? 0) + text.length);
  const body = [...letters].reduce((best, one) => (one[1] > best[1] ? one : best), [0, 0])[0];
  const sizes = [...letters.keys()].filter((size) => size >= body * HEADING_SIZE).toSorted((a, b) => b - a);
  return new Map(sizes.map((size, at) => [size, Math.min(at + 1, MAX_HEADING_LEVEL)]));
}

interface Paragraph {
  lines: PdfLine[];
  level: number | undefined;
}

function paragraphsOf(lines: readonly PdfLine[], levels: ReadonlyMap<number, number>): Paragraph[] {
  const gaps = lines.slice(1).map((line, at) => (lines[at] as PdfLine).y - line.y);
  const usual = gaps.filter((gap) => gap > 0).toSorted((a, b) => a - b);
  const lineGap = usual[Math.floor((usual.length - 1) / 3)] ?? 0;
  const paragraphs: Paragraph[] = [];
  for (const [at, line] of lines.entries()) {
    const level = /\p{L}/u.test(line.text) ? levels.get(line.size) : undefined;
    const before = paragraphs.at(-1);
    const gap = gaps[at - 1] ?? 0;
    const room = level === undefined ? lineGap : Math.max(lineGap, line.size * 1.5);
    // Upwards is another column.
    const goesOn =
      before !== undefined && before.level === level && gap > -line.size / 2 && gap <= room * PARAGRAPH_GAP;
    if (goesOn) before.lines.push(line);
    else paragraphs.push({ lines: [line], level });
  }
  return paragraphs;
}

/** Words that a line end divides are put together again. */
function joinLines(lines: readonly PdfLine[], joint: string): string {
  let text = '';
  for (const line of lines) {
    if (text === '') text = line.text;
    else if (/\p{L}[-\u00ad]$/u.test(text) && /^\p{Ll}/u.test(line.text)) text = text.slice(0, -1) + line.text;
    else text += joint + line.text;
  }
  return text.replaceAll('\u00ad', '');
}

function pagesOf(count: number): string {
  return count === 1 ? '1 page' : `${count} pages`;
}
