/** What the demo and `npm run dev` print: colours and a moving bar on a terminal, plain lines elsewhere. */
import { printable, printableLine } from '../../src/cli/terminal.ts';

const SGR = { bold: [1, 22], dim: [2, 22], red: [31, 39], green: [32, 39], yellow: [33, 39], cyan: [36, 39] } as const;
const BAR_WIDTH = 30;
const INDENT = '  ';
const WIDEST = 96;

export type Style = keyof typeof SGR;

export class Screen {
  readonly #out: NodeJS.WriteStream;
  readonly #terminal: boolean;
  readonly #colours: boolean;
  #section = 0;
  /** Column of the cursor in flowing text; 0 at the start of a line. */
  #column = 0;
  /** The line began with a line end of the text's own, so that its blanks are indentation. */
  #ownLine = true;
  #drewBar = false;
  #barShare = -1;

  constructor(out: NodeJS.WriteStream, env: NodeJS.ProcessEnv) {
    this.#out = out;
    this.#terminal = out.isTTY === true && env.TERM !== 'dumb';
    this.#colours = this.#terminal && (env.NO_COLOR ?? '') === '';
  }

  style(style: Style, text: string): string {
    if (!this.#colours) return text;
    const [on, off] = SGR[style];
    return `\x1b[${on}m${text}\x1b[${off}m`;
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
    this.#out.write(`${text}\n`);
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
      this.#out.write(`\r\x1b[K${INDENT}${bar} ${counts}  ${printableLine(message, this.#width() - BAR_WIDTH - 25)}`);
      this.#drewBar = true;
      return;
    }
    const quarter = Math.floor(share * 4);
    if (quarter === this.#barShare) return;
    this.#barShare = quarter;
    this.item(`${counts}  ${printableLine(message)}`.trimEnd());
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
      if (this.#column > 0 && this.#column + part.length > this.#width()) {
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
      this.#column += part.length;
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
