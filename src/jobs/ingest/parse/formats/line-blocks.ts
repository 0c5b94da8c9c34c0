/** Blocks that are stretches of lines of a text. */
import type { Block } from '../../blocks.ts';

export class LineBlocks {
  readonly blocks: Block[] = [];
  readonly lines: readonly string[];
  /** Of each line. */
  readonly #starts: number[] = [];

  constructor(text: string) {
    this.lines = text.split('\n');
    let start = 0;
    for (const line of this.lines) {
      this.#starts.push(start);
      start += line.length + 1;
    }
  }

  line(at: number): string {
    return this.lines[at] ?? '';
  }

  isBlank(at: number): boolean {
    return this.line(at).trim() === '';
  }

  /** The first line from `at` that is blank, or the end. */
  endOfParagraph(at: number): number {
    let end = at;
    while (end < this.lines.length && !this.isBlank(end)) end++;
    return end;
  }

  /** The first line from `at` that has text and is indented by less than `columns`. */
  endOfIndented(at: number, columns = 1): number {
    let end = at;
    while (end < this.lines.length && (this.isBlank(end) || indentOf(this.line(end)) >= columns)) end++;
    return end;
  }

  heading(level: number, text: string, from: number, to: number): void {
    const start = this.#starts[from] as number;
    this.blocks.push({ kind: 'heading', level, text, start, end: this.#endOf(to) });
  }

  /** Lines `from` to `to`, exclusive, without blank ones around. @param fence around each part of code */
  push(kind: 'text' | 'lines' | 'list' | 'code', from: number, to: number, fence?: string): void {
    let [first, last] = [from, Math.min(to, this.lines.length)];
    while (first < last && this.isBlank(first)) first++;
    while (last > first && this.isBlank(last - 1)) last--;
    if (first >= last) return;
    const text = this.lines.slice(first, last).join('\n');
    const place = { start: this.#starts[first] as number, end: this.#endOf(last) };
    if (kind === 'code') this.blocks.push({ kind, text, ...place, ...(fence === undefined ? {} : { fence }) });
    else this.blocks.push({ kind, text, ...place });
  }

  #endOf(to: number): number {
    return (this.#starts[to - 1] as number) + this.line(to - 1).length;
  }
}

export function indentOf(line: string): number {
  return line.length - line.trimStart().length;
}
