/** Pieces of text on a PDF page as lines. */

/** What is used of an item of pdf.js. */
export interface PdfItem {
  str?: string;
  /** Its last two are x and y of the baseline, from the lower left. */
  transform?: number[];
  width?: number;
  height?: number;
  hasEOL?: boolean;
}

export interface PdfLine {
  text: string;
  /** Of the baseline, from the lower edge, in points. */
  y: number;
  /** Of its letters, in points, to a half. */
  size: number;
}

interface OpenLine {
  text: string;
  y: number;
  endX: number;
  /** Letters of each size. */
  sizes: Map<number, number>;
}

/** In the order of the page's content, which is that of reading in all but strange documents. */
export function linesOf(items: readonly PdfItem[]): PdfLine[] {
  const lines: PdfLine[] = [];
  let open: OpenLine | undefined;
  const endLine = (): void => {
    const text = open?.text.replaceAll('\0', '').toWellFormed().replace(/\s+/g, ' ').trim() ?? '';
    if (open !== undefined && text !== '') {
      const [size] = [...open.sizes].reduce((best, one) => (one[1] > best[1] ? one : best), [0, 0]);
      lines.push({ text, y: open.y, size });
    }
    open = undefined;
  };
  for (const { str = '', transform = [], width = 0, height = 0, hasEOL = false } of items) {
    const [x = 0, y = 0] = transform.slice(4);
    if (str !== '') {
      if (open !== undefined && Math.abs(y - open.y) > Math.max(2, height * 0.6)) endLine();
      if (open === undefined) open = { text: '', y, endX: x, sizes: new Map() };
      // A gap wider than a letter is one between cells or words.
      else if (x - open.endX > Math.max(1, height * 0.25) && !/\s$/.test(open.text) && !/^\s/.test(str))
        open.text += ' ';
      open.text += str;
      open.endX = x + width;
      const size = Math.round(height * 2) / 2;
      if (str.trim() !== '') open.sizes.set(size, (open.sizes.get(size) ?? 0) + str.length);
    }
    if (hasEOL) endLine();
  }
  endLine();
  return lines;
}

/** Fewer pages do not show what is repeated on each. */
const MIN_PAGES = 4;
/** On this many of all pages. */
const REPEATED = 0.6;

/** Without headers and footers: the uppermost and lowest lines that are alike on most pages, but for numbers. */
export function dropRunningLines(pages: readonly PdfLine[][]): PdfLine[][] {
  if (pages.length < MIN_PAGES) return [...pages];
  const counts = new Map<string, number>();
  const keyOf = ({ text }: PdfLine): string => text.replace(/\d+/g, '#');
  const edges = pages.map(edgesOf);
  for (const lines of edges) for (const key of new Set(lines.map(keyOf))) counts.set(key, (counts.get(key) ?? 0) + 1);
  const isRunning = (line: PdfLine): boolean => (counts.get(keyOf(line)) ?? 0) >= pages.length * REPEATED;
  return pages.map((lines, at) => lines.filter((line) => !(edges[at]?.includes(line) === true && isRunning(line))));
}

/** By their place on the page: content may have them in any order. */
function edgesOf(lines: readonly PdfLine[]): PdfLine[] {
  const [first] = lines;
  if (first === undefined) return [];
  let [top, bottom] = [first, first];
  for (const line of lines) {
    if (line.y > top.y) top = line;
    if (line.y < bottom.y) bottom = line;
  }
  return [top, bottom];
}
