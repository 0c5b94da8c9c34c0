/** How wide a text is on a terminal, and texts that have to fit. Widths are in columns. */
import stringWidth from 'string-width';
import { printableLine } from '../printable.ts';

const graphemes = new Intl.Segmenter(undefined, { granularity: 'grapheme' });

/** Characters have any number of marks; more UTF-16 units than this a column are not looked at. */
const MAX_UNITS_PER_COLUMN = 16;

/** An ideograph has two columns, an emoji of several code points too, a combining mark none. */
export function widthOf(text: string): number {
  return stringWidth(text);
}

/** One line no wider than `columns`; what is cut ends with `…`, between characters as people count them. */
export function cutTo(text: string, columns: number): string {
  const looked = text.slice(0, (columns + 1) * MAX_UNITS_PER_COLUMN);
  const line = printableLine(looked);
  if (looked.length === text.length && widthOf(line) <= columns) return line;
  let [kept, width] = ['', 0];
  for (const { segment } of graphemes.segment(line)) {
    width += widthOf(segment);
    if (width > columns - 1) break;
    kept += segment;
  }
  // The end of what was looked at may be half of a pair.
  return columns < 1 ? '' : `${kept.replace(/\ufffd$/, '')}…`;
}

export function padEnd(text: string, columns: number): string {
  return text + ' '.repeat(Math.max(0, columns - widthOf(text)));
}

/** Columns are not cut below this, or their heading if that is longer. */
const MIN_CUT_WIDTH = 8;

/**
 * Rows under their headings, a line each, columns as wide as their widest cell.
 *
 * @param limit the table gets no wider than `columns`, as far as cutting the cells of the columns `cut` can do it;
 *   the widest of them is cut first
 */
export function formatTable(
  headings: readonly string[],
  rows: readonly (readonly string[])[],
  limit?: { columns: number; cut: readonly string[] },
): string[] {
  const cells = rows.map((row) => headings.map((_, i) => printableLine(row[i] ?? '')));
  const widths = headings.map((heading, i) =>
    Math.max(widthOf(heading), ...cells.map((row) => widthOf(row[i] as string))),
  );
  if (limit !== undefined) cutWidths(headings, widths, limit);
  const format = (row: readonly string[]) =>
    row
      .map((cell, i) => padEnd(cutTo(cell, widths[i] as number), widths[i] as number))
      .join('  ')
      .trimEnd();
  return [format(headings), ...cells.map(format)];
}

function cutWidths(
  headings: readonly string[],
  widths: number[],
  { columns, cut }: { columns: number; cut: readonly string[] },
): void {
  const floors = headings.map((heading) =>
    cut.includes(heading) ? Math.max(MIN_CUT_WIDTH, heading.length) : Infinity,
  );
  const roomIn = (i: number) => (widths[i] ?? 0) - (floors[i] ?? 0);
  let excess = widths.reduce((sum, width) => sum + width, 2 * (widths.length - 1)) - columns;
  for (; excess > 0; excess--) {
    const cuttable = widths
      .keys()
      .filter((i) => roomIn(i) > 0)
      .toArray();
    const widest = cuttable.toSorted((a, b) => (widths[b] ?? 0) - (widths[a] ?? 0))[0];
    if (widest === undefined) return;
    widths[widest] = (widths[widest] ?? 0) - 1;
  }
}
