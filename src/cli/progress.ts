/** How far a job is: a bar that redraws its line on a terminal, a line now and then in a pipe. */
import { cutTo } from './columns.ts';
import type { Terminal } from './terminal.ts';

/** A bar faster than this flickers. */
const REDRAW_MS = 100;
/** In a pipe or a CI log: often enough to see life, seldom enough to read. */
const PLAIN_LINE_MS = 2_000;
const BAR_WIDTH = 24;

interface ProgressState {
  done: number;
  total?: number;
  message?: string;
}

export class Progress {
  readonly #terminal: Terminal;
  readonly #label: string;
  readonly #now: () => number;
  #shownAt = Number.NEGATIVE_INFINITY;
  #shown = '';
  #state: ProgressState | undefined;

  constructor(terminal: Terminal, label: string, now: () => number = () => performance.now()) {
    this.#terminal = terminal;
    this.#label = label;
    this.#now = now;
  }

  update(state: ProgressState): void {
    this.#state = state;
    const now = this.#now();
    if (now - this.#shownAt < (this.#terminal.redraws ? REDRAW_MS : PLAIN_LINE_MS)) return;
    this.#shownAt = now;
    this.#draw();
  }

  /** A remark on a line of its own, above the bar. */
  note(text: string): void {
    this.#erase();
    this.#terminal.note(text);
    if (this.#terminal.redraws && this.#state !== undefined) this.#draw();
  }

  /** Shows the last state and leaves the line. */
  finish(): void {
    if (this.#state === undefined) return;
    this.#draw();
    if (this.#terminal.redraws && this.#shown !== '') this.#terminal.endRedraw();
    this.#state = undefined;
    this.#shown = '';
  }

  #draw(): void {
    if (this.#state === undefined) return;
    const line = formatProgress(
      this.#label,
      this.#state,
      this.#terminal.redraws ? this.#terminal.columns - 1 : undefined,
    );
    if (this.#terminal.redraws) this.#terminal.redraw(line);
    else if (line !== this.#shown) this.#terminal.note(line);
    this.#shown = line;
  }

  #erase(): void {
    if (this.#terminal.redraws && this.#shown !== '') this.#terminal.redraw('');
  }
}

/** One line; with `columns` a bar that fits them, without a plain one. */
export function formatProgress(label: string, state: ProgressState, columns?: number): string {
  const { done, total } = state;
  const share = total === undefined || total <= 0 ? undefined : Math.min(1, Math.max(0, done / total));
  const counts = total === undefined ? `${done}` : `${done}/${total}`;
  const percent = share === undefined ? '' : ` ${String(Math.floor(share * 100)).padStart(3)}%`;
  const message = state.message === undefined ? '' : `  ${state.message}`;
  if (columns === undefined) return `${label}${percent} ${counts}${message}`;
  const filled = share === undefined ? 0 : Math.round(share * BAR_WIDTH);
  const bar = share === undefined ? '' : ` [${'#'.repeat(filled)}${'.'.repeat(BAR_WIDTH - filled)}]`;
  return cutTo(`${label}${bar}${percent} ${counts}${message}`, Math.max(10, columns));
}
