/**
 * What the demo and `npm run dev` print: colours and a moving bar on a terminal, plain lines elsewhere.
 * As in src/cli/terminal.ts, nothing of a text from outside gets to the terminal as a control character.
 */
import { cutTo, widthOf } from '../../src/cli/columns.ts';
import { renderLine, type Style, styled } from '../../src/cli/styled.ts';
import type { OutputStream } from '../../src/cli/terminal.ts';
import { printable } from '../../src/printable.ts';

const BAR_WIDTH = 30;
const INDENT = '  ';
const WIDEST = 96;

export class Screen {
  readonly #out: OutputStream;
  readonly #terminal: boolean;
  readonly #colours: boolean;
  #section = 0;
  /** Column of the cursor in flowing text; 0 at the start of a line. */
  #column = 0;
  /** The line began with a line end of the text's own, so that its blanks are indentation. */
  #ownLine = true;
  #drewBar = false;
  #barShare = -1;

  constructor(out: OutputStream, env: NodeJS.ProcessEnv) {
    this.#out = out;
    this.#terminal = out.isTTY === true && env.TERM !== 'dumb';
    this.#colours = this.#terminal && (env.NO_COLOR ?? '') === '';
  }

  style(style: Style, text: string): string {
    return this.#colours ? styled(style, text) : text;
  }

  title(text: string): void {
    this.line(this.style('bold', text));
  }

  section(text: string): void {
    this.#section++;
    this.line();
    this.line(this.style('cyan', this.style('bold', `${this.#section}. ${text}`)));
  }

  line(text = ''): void {
    this.endText();
    this.#out.write(`${renderLine(text)}\n`);
  }

  /** A text of several lines, such as the end of a log. */
  block(text: string): void {
    for (const line of text.trimEnd().split('\n')) this.line(line);
  }

  /** An indented line. */
  item(text: string): void {
    this.line(`${INDENT}${text}`);
  }

  /** Something that was checked and holds. */
  check(text: string): void {
    this.item(`${this.style('green', '✓')} ${text}`);
  }

  /** A bar that moves on a terminal; elsewhere a line for each quarter. */
  progress(done: number, total: number, message: string): void {
    const share = total === 0 ? 1 : Math.min(1, done / total);
    const counts = `${String(Math.floor(share * 100)).padStart(3)}%  ${done}/${total}`;
    if (this.#terminal) {
      const filled = Math.round(share * BAR_WIDTH);
      const bar = `${this.style('green', '█'.repeat(filled))}${this.style('dim', '░'.repeat(BAR_WIDTH - filled))}`;
      const line = `${INDENT}${bar} ${counts}  ${cutTo(message, this.#width() - BAR_WIDTH - 25)}`;
      this.#out.write(`\r\x1b[K${renderLine(line)}`);
      this.#drewBar = true;
      return;
    }
    const quarter = Math.floor(share * 4);
    if (quarter === this.#barShare) return;
    this.#barShare = quarter;
    this.item(`${counts}  ${message}`.trimEnd());
  }

  endProgress(): void {
    if (this.#drewBar) this.#out.write('\n');
    this.#drewBar = false;
    this.#barShare = -1;
  }

  /** Flowing text as it arrives, wrapped between words. */
  text(text: string): void {
    for (const part of printable(text).split(/(\n|[^\S\n]+)/)) {
      if (part === '') continue;
      if (part === '\n') {
        this.#out.write('\n');
        this.#column = 0;
        this.#ownLine = true;
        continue;
      }
      if (this.#column > 0 && this.#column + widthOf(part) > this.#width()) {
        this.#out.write('\n');
        this.#column = 0;
        this.#ownLine = false;
      }
      if (this.#column === 0) {
        if (part.trim() === '' && !this.#ownLine) continue;
        this.#out.write(INDENT.repeat(2));
        this.#column = INDENT.length * 2;
      }
      this.#out.write(part);
      this.#column += widthOf(part);
    }
  }

  endText(): void {
    if (this.#column > 0) this.#out.write('\n');
    this.#column = 0;
    this.#ownLine = false;
  }

  #width(): number {
    return Math.min(this.#out.columns ?? WIDEST, WIDEST);
  }
}

export function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(1)} s`;
}
