/**
 * An answer's stream as text.
 *
 * Live, text is printed as it comes; when an attempt starts over, what stands on the screen
 * cannot be taken back, so a line says that the answer begins again. Not live, nothing is
 * printed before the end, so that a pipe gets the last attempt's text alone.
 */
import type { StreamEvent, SystemEvent } from '../journal/event.ts';
import { createFolder } from '../journal/fold.ts';
import { describeReason } from './event-text.ts';
import { printable, printableLine, type Terminal } from './terminal.ts';

export interface Source {
  n: number;
  path: string;
  heading?: string;
}

const HIGH_SURROGATE_AT_END = /[\ud800-\udbff]$/;

export class AnswerView {
  readonly #terminal: Terminal;
  readonly #live: boolean;
  readonly #folder = createFolder();
  /** Half of a pair that a token split: printed with its other half. */
  #held = '';
  #atLineStart = true;

  constructor(terminal: Terminal, live: boolean) {
    this.#terminal = terminal;
    this.#live = live;
  }

  /** The text of the last attempt, as far as it has come. */
  get text(): string {
    return this.#folder.state.text;
  }

  get sources(): readonly Source[] {
    return this.#folder.state.sources as readonly Source[];
  }

  async accept(item: StreamEvent): Promise<void> {
    const before = this.text;
    const { lastSeq } = this.#folder.state;
    this.#folder.add(item);
    const { event, seq } = item;
    if (event.type === 'attempt') {
      await this.#startAttempt(event as Extract<SystemEvent, { type: 'attempt' }>, before);
    } else if (event.type === 'retry') {
      const { error, delayMs, attempt } = event as Extract<SystemEvent, { type: 'retry' }>;
      await this.#note(
        `Attempt ${attempt} failed (${error.code}: ${error.message}); the next starts in ${(delayMs / 1_000).toFixed(1)} s`,
      );
    } else if (this.text.length < before.length) {
      await this.#note('The end of this was lost in a crash: the answer goes on from here');
      await this.#print(this.text);
    } else if (event.type === 'delta' && seq > lastSeq && 'text' in event && typeof event.text === 'string') {
      await this.#print(event.text);
    }
  }

  /** Prints what is still to be printed: the answer in a pipe, the sources everywhere. */
  async finish(result: unknown): Promise<void> {
    const { text: finalText, sources } = readResult(result, { text: this.text, sources: this.sources });
    if (!this.#live) await this.#terminal.line(printable(finalText));
    else {
      await this.endLine();
      if (finalText !== this.text) {
        await this.#note('The answer as it is stored:');
        await this.#terminal.line(printable(finalText));
      }
    }
    const list = formatSources(sources);
    if (list !== '') await this.#terminal.write(`\n${this.#terminal.style('bold', 'Sources')}\n${list}`);
  }

  /** Ends a line that the answer has begun, so that what comes next starts on its own. */
  async endLine(): Promise<void> {
    // Half of a pair that never came whole belongs to no later text.
    this.#held = '';
    if (this.#atLineStart) return;
    await this.#terminal.write('\n');
    this.#atLineStart = true;
  }

  async #startAttempt(
    { attempt, reason }: Extract<SystemEvent, { type: 'attempt' }>,
    textBefore: string,
  ): Promise<void> {
    const startsAgain = this.text !== textBefore;
    const what = startsAgain ? 'the answer starts again' : 'it goes on';
    await this.#note(`Attempt ${attempt} (${describeReason(reason)}): ${what}`);
    if (startsAgain) await this.#print(this.text);
  }

  async #note(text: string): Promise<void> {
    if (this.#live) await this.endLine();
    this.#terminal.note(`-- ${printableLine(text)} --`);
  }

  async #print(text: string): Promise<void> {
    if (!this.#live) return;
    let ready = printable(this.#held + text);
    this.#held = HIGH_SURROGATE_AT_END.test(ready) ? ready.slice(-1) : '';
    ready = ready.slice(0, ready.length - this.#held.length);
    if (ready === '') return;
    this.#atLineStart = ready.endsWith('\n');
    await this.#terminal.write(ready);
  }
}

function formatSources(sources: readonly Source[]): string {
  return sources
    .map(
      ({ n, path, heading }) =>
        `  [${n}] ${printableLine(path)}${heading === undefined || heading === '' ? '' : ` · ${printableLine(heading)}`}\n`,
    )
    .join('');
}

/** The job's result if it is the answer's; what the stream said otherwise. */
function readResult(
  result: unknown,
  seen: { text: string; sources: readonly Source[] },
): { text: string; sources: readonly Source[] } {
  if (typeof result !== 'object' || result === null) return seen;
  const { text, sources } = result as { text?: unknown; sources?: unknown };
  return {
    text: typeof text === 'string' ? text : seen.text,
    sources: Array.isArray(sources) ? (sources as Source[]) : seen.sources,
  };
}
