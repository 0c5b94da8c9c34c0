/** Tables as Markdown, which reads well in a terminal too. */
import type { Spread } from './stats.ts';

export interface Table {
  title: string;
  /** A sentence or two below the title. */
  about?: string;
  columns: readonly string[];
  /** Cells are text; the first column is set left, the others right. */
  rows: readonly (readonly string[])[];
}

/** Columns are padded, so that the source is a table as well. */
export function toMarkdown(table: Table): string {
  const widths = table.columns.map((name, i) =>
    Math.max(3, name.length, ...table.rows.map((row) => (row[i] ?? '').length)),
  );
  const line = (cells: readonly string[]) =>
    `| ${widths.map((width, i) => (i === 0 ? (cells[i] ?? '').padEnd(width) : (cells[i] ?? '').padStart(width))).join(' | ')} |`;
  const rule = `| ${widths.map((width, i) => (i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`)).join(' | ')} |`;
  return [line(table.columns), rule, ...table.rows.map(line)].join('\n');
}

/** 12,345 from 1,000 on; three significant digits below. */
export function formatNumber(value: number): string {
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString('en-US');
  return String(Number(value.toPrecision(3)));
}

export function rangeText({ min, max }: Spread): string {
  return `${formatNumber(min)} to ${formatNumber(max)}`;
}

export function ratioText(ratio: number | undefined): string {
  return ratio === undefined ? '' : ratio.toFixed(2);
}
