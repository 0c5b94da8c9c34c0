/** CSV and TSV: a table whose header every part repeats, or one record after the other where rows are wide. */
import type { Block } from '../../blocks.ts';
import type { Parsed, TextFormat } from '../format.ts';
import { loadPackage } from '../packages.ts';

const DELIMITERS = [',', ';', '\t', '|'];
/** A header that is longer is no help in front of a row: each value gets its name instead. */
const MAX_HEADER_LENGTH = 300;
/** Lines that are looked at to find the delimiter. */
const SAMPLE_LINES = 50;

export const CSV: TextFormat = {
  kind: 'csv',
  from: 'text',
  extensions: ['.csv', '.tsv', '.tab'],
  mediaTypes: ['text/csv', 'text/tab-separated-values', 'application/csv'],
  parse: (text, path) => parseCsv(text, /\.(?:tsv|tab)$/i.test(path) ? '\t' : undefined),
  looksLike: looksLikeCsv,
};

async function parseCsv(text: string, given?: string): Promise<Parsed> {
  const { parse } = await loadPackage('csv-parse', () => import('csv-parse/sync'));
  const delimiter = given ?? delimiterOf(text) ?? ',';
  let header: string[] | undefined;
  const out = new Rows();
  parse(text, {
    delimiter,
    relax_column_count: true,
    relax_quotes: true,
    skip_empty_lines: true,
    skip_records_with_empty_values: true,
    // Rows are not kept: what they become is.
    on_record: (record: string[]) => {
      if (header === undefined) header = out.begin(record);
      else out.add(header, record);
      return null;
    },
  });
  return out.end();
}

/** Rows as they come, written as a Markdown table or as records. */
class Rows {
  #parts: string[] = [];
  #asTable = true;
  #rows = 0;

  begin(record: readonly string[]): string[] {
    const header = record.map((cell, at) => oneLine(cell) || `column ${at + 1}`);
    const line = rowOf(header);
    this.#asTable = line.length <= MAX_HEADER_LENGTH;
    if (this.#asTable) this.#parts.push(line, rowOf(header.map(() => '---')));
    else this.#parts.push(header.join(', '));
    return header;
  }

  add(header: readonly string[], record: readonly string[]): void {
    this.#rows++;
    if (this.#asTable) this.#parts.push(rowOf(record.map(oneLine)));
    else
      this.#parts.push(
        record
          .map((cell, at) => (cell.trim() === '' ? '' : `${header[at] ?? `column ${at + 1}`}: ${cell.trim()}`))
          .filter((line) => line !== '')
          .join('\n'),
      );
  }

  end(): Parsed {
    if (this.#parts.length === 0) return { title: undefined, text: '', blocks: [] };
    if (this.#asTable) {
      const text = this.#parts.join('\n');
      return { title: undefined, text, blocks: [{ kind: 'table', text, start: 0, end: text.length }] };
    }
    const blocks: Block[] = [];
    let start = 0;
    // The names alone are a record only where there is no other.
    for (const text of this.#rows === 0 ? this.#parts : this.#parts.slice(1)) {
      blocks.push({ kind: 'lines', text, start, end: start + text.length });
      start += text.length + 2;
    }
    return { title: undefined, text: blocks.map(({ text }) => text).join('\n\n'), blocks };
  }
}

function rowOf(cells: readonly string[]): string {
  return `| ${cells.join(' | ')} |`;
}

function oneLine(cell: string): string {
  return cell.replace(/\s+/g, ' ').trim().replaceAll('|', '\\|');
}

/** The one that divides most lines into the same number of cells, two at least. */
function delimiterOf(text: string): string | undefined {
  const lines = text
    .slice(0, 100_000)
    .split('\n')
    .slice(0, SAMPLE_LINES)
    .filter((line) => line.trim() !== '');
  let best: { delimiter: string; score: number } | undefined;
  for (const delimiter of DELIMITERS) {
    const counts = lines.map((line) => cellCount(line, delimiter));
    const header = counts[0] ?? 1;
    const alike = counts.filter((count) => count === header).length / Math.max(1, counts.length);
    if (header < 2 || alike < 0.8) continue;
    const score = alike * 100 + header;
    if (best === undefined || score > best.score) best = { delimiter, score };
  }
  return best?.delimiter;
}

/** Quoted cells may hold the delimiter. */
function cellCount(line: string, delimiter: string): number {
  return line.replace(/"(?:[^"]|"")*"/g, '').split(delimiter).length;
}

/** A header of names, and below it at least three lines with as many cells. */
function looksLikeCsv(text: string): boolean {
  const delimiter = delimiterOf(text);
  if (delimiter === undefined) return false;
  const lines = text
    .slice(0, 100_000)
    .split('\n')
    .slice(0, SAMPLE_LINES)
    .filter((line) => line.trim() !== '');
  const cells = (lines[0] ?? '').split(delimiter);
  // A comma with a blank behind it is one of a sentence.
  if (delimiter !== '|' && cells.some((cell) => cell.startsWith(' '))) return false;
  const names = cells.map((name) => name.trim().replace(/^"|"$/g, ''));
  const areNames =
    names.every((name) => /^[\p{L}_#@][^.!?:]{0,40}$/u.test(name)) && new Set(names).size === names.length;
  // Two cells of words are a sentence with a comma more often than a table.
  return lines.length >= 4 && areNames && (names.length > 2 || names.every((name) => !/\s/.test(name)));
}
