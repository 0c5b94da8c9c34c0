/** Plain text: paragraphs between blank lines, and the headings that people write without any markup. */
import type { Block } from '../../blocks.ts';
import type { Parsed, TextFormat } from '../format.ts';

const UNDERLINE = /^[ \t]*(?:={3,}|-{3,}|~{3,})[ \t]*$/;
const NUMBERED =
  /^(?:(?:chapter|section|part|appendix|kapitel|abschnitt|teil|chapitre|глава|раздел)\s+)?(\d{1,3}(?:\.\d{1,3}){0,4}|[IVX]{1,6}|[A-Z])[.)]?(?::|\s)\s*(\S.*)$/iu;
const CJK_NUMBERED = /^(?:第\s*[\d一二三四五六七八九十百]+\s*[章節节条條部編编]|[一二三四五六七八九十]+[、．.])/u;
const MAX_HEADING_LENGTH = 100;

export const PLAIN_TEXT: TextFormat = {
  kind: 'text',
  from: 'text',
  extensions: ['.txt', '.text', ''],
  mediaTypes: ['text/plain'],
  parse: parsePlain,
};

interface Paragraph {
  lines: string[];
  start: number;
  end: number;
}

function parsePlain(text: string): Parsed {
  const paragraphs = paragraphsOf(text);
  const levels = headingLevels(paragraphs);
  const blocks: Block[] = [];
  for (const [at, { lines, start, end }] of paragraphs.entries()) {
    const first = (lines[0] as string).trim();
    const level = levels[at] ?? underlineLevel(lines);
    if (level === undefined) {
      blocks.push({ kind: 'text', text: lines.join('\n'), start, end });
      continue;
    }
    // Everything else of its paragraph follows it: the lines below an underline.
    const taken = levels[at] === undefined ? 2 : 1;
    const headingEnd = start + lines.slice(0, taken).join('\n').length;
    blocks.push({ kind: 'heading', level, text: first, start, end: headingEnd });
    const rest = lines.slice(taken).join('\n');
    if (rest.trim() !== '') blocks.push({ kind: 'text', text: rest, start: headingEnd + 1, end });
  }
  const opening = blocks[0];
  return { title: opening?.kind === 'heading' ? opening.text : undefined, text, blocks };
}

function paragraphsOf(text: string): Paragraph[] {
  const paragraphs: Paragraph[] = [];
  let current: Paragraph | undefined;
  let at = 0;
  for (const line of text.split('\n')) {
    if (line.trim() === '') current = undefined;
    else {
      if (current === undefined) {
        current = { lines: [], start: at, end: at };
        paragraphs.push(current);
      }
      current.lines.push(line);
      current.end = at + line.length;
    }
    at += line.length + 1;
  }
  for (const paragraph of paragraphs) {
    const last = paragraph.lines.length - 1;
    const line = paragraph.lines[last] as string;
    paragraph.end -= line.length - line.trimEnd().length;
    paragraph.lines[last] = line.trimEnd();
  }
  return paragraphs;
}

/** Of a paragraph whose second line underlines its first. */
function underlineLevel(lines: readonly string[]): number | undefined {
  const [title = '', underline = ''] = lines.map((line) => line.trim());
  if (lines.length < 2 || !UNDERLINE.test(underline) || title.length > MAX_HEADING_LENGTH) return undefined;
  if (!/\p{L}/u.test(title) || /[|+]/.test(title)) return undefined;
  if (underline.length < title.length * 0.5 || underline.length > Math.max(title.length * 2, title.length + 10))
    return undefined;
  return underline[0] === '=' ? 1 : 2;
}

/** Of paragraphs that are one short line: numbered, or in capitals, with text below. */
function headingLevels(paragraphs: readonly Paragraph[]): (number | undefined)[] {
  const levels = paragraphs.map(({ lines }) =>
    lines.length === 1 ? numberedLevel((lines[0] as string).trim()) : undefined,
  );
  // A list with blank lines between its items looks the same: it has no text below most of them.
  const numbered = levels.flatMap((level, at) => (level === undefined ? [] : [at]));
  const hasText = (at: number): boolean => {
    const next = paragraphs[at + 1];
    return next !== undefined && levels[at + 1] === undefined;
  };
  const opens = (at: number): boolean => (levels[at + 1] ?? 0) > (levels[at] as number);
  const good = numbered.filter((at) => hasText(at) || opens(at)).length;
  if (good < numbered.length * 0.6) for (const at of numbered) levels[at] = undefined;
  const capitals = paragraphs.map(({ lines }) => lines.length === 1 && isCapitals((lines[0] as string).trim()));
  // Where much of a text is in capitals they mean nothing.
  const many = capitals.filter(Boolean).length > paragraphs.length / 2;
  for (const [at, capital] of capitals.entries()) {
    const isHeading = capital && !many && capitals[at + 1] === false;
    if (isHeading && levels[at] === undefined) levels[at] = 1;
  }
  return levels;
}

function numberedLevel(line: string): number | undefined {
  if (line.length > MAX_HEADING_LENGTH || /[.!?;,:。！？；，：]$/u.test(line)) return undefined;
  if (CJK_NUMBERED.test(line)) return 1;
  const [, number = '', title = ''] = NUMBERED.exec(line) ?? [];
  if (number === '' || !/^["'“„«(]?[\p{Lu}\p{Lo}]/u.test(title)) return undefined;
  // "A Title", "I Think": a letter alone needs its dot.
  if (/^[A-Z]+$/i.test(number) && !/^[^\s]+[.):]\s/.test(line) && !/^[A-Za-z\p{L}]{4,}\s/u.test(line)) return undefined;
  return number.split('.').length;
}

/** At least two words or six letters, all of them capitals; no end of a sentence. */
function isCapitals(line: string): boolean {
  if (line.length > 60 || /[.!?;,]$/.test(line) || /[|=<>{}[\]_\\/]/.test(line)) return false;
  const letters = line.match(/\p{L}/gu)?.length ?? 0;
  const capitals = line.match(/\p{Lu}/gu)?.length ?? 0;
  return capitals === letters && capitals >= 4 && letters >= line.replace(/\s/g, '').length * 0.7;
}
