/**
 * An answer's stream as text.
 *
 * Live, text is printed as it comes; when an attempt starts over, what was printed cannot be
 * taken back, so a line among it says that the answer begins again. Not live, nothing is
 * printed before the end, so that a pipe gets the last attempt's text alone.
 */
import type { StreamEvent, SystemEvent } from '../journal/event.ts';
import { createFolder } from '../journal/fold.ts';
import { describeReason } from './event-text.ts';
import type { Terminal } from './terminal.ts';

interface Source {
  n: number;
  path: string;
  heading?: string;
  page?: number;
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
      await this.#remark(
        `Attempt ${attempt} failed (${error.code}: ${error.message}); the next starts in ${(delayMs / 1_000).toFixed(1)} s`,
      );
    } else if (event.type === 'waiting') {
      const { error, delayMs } = event as unknown as { error: { message: string }; delayMs: number };
      await this.#remark(`${error.message}; asked again in ${(delayMs / 1_000).toFixed(1)} s`);
    } else if (this.text.length < before.length) {
      await this.#turn('The end of this was lost in a crash: the answer continues from here');
      await this.#print(this.text);
    } else if (event.type === 'delta' && seq > lastSeq && 'text' in event && typeof event.text === 'string') {
      await this.#print(event.text);
    }
  }

  /** Prints what is still to be printed: the answer in a pipe, the sources everywhere. */
  async finish(result: unknown): Promise<void> {
    const { text: finalText, sources } = readResult(result, { text: this.text, sources: this.sources });
    if (!this.#live) await this.#terminal.text(`${finalText}\n`);
    else {
      await this.endLine();
      if (finalText !== this.text) {
        await this.#turn('The answer as it is stored:');
        await this.#terminal.text(`${finalText}\n`);
      }
    }
    if (sources.length > 0)
      await this.#terminal.lines(['', this.#terminal.style('bold', 'Sources'), ...sources.map(formatSource)]);
  }

  /** Ends a line that the answer has begun, so that what comes next starts on its own. */
  async endLine(): Promise<void> {
    // Half of a pair that never came whole belongs to no later text; it is printed as the stored text would be.
    if (this.#held !== '') this.#atLineStart = false;
    const rest = this.#held;
    this.#held = '';
    if (this.#atLineStart) return;
    this.#atLineStart = true;
    await this.#terminal.text(`${rest}\n`);
  }

  async #startAttempt(
    { attempt, reason }: Extract<SystemEvent, { type: 'attempt' }>,
    textBefore: string,
  ): Promise<void> {
    const startsAgain = this.text !== textBefore;
    const what = startsAgain ? 'the answer starts again' : 'it continues';
    const text = `Attempt ${attempt} (${describeReason(reason)}): ${what}`;
    if (!startsAgain) return this.#remark(text);
    await this.#turn(text);
    await this.#print(this.text);
  }

  /** Says that what was printed does not hold, between it and what does: where a reader of standard output alone sees it. */
  async #turn(text: string): Promise<void> {
    if (!this.#live) return this.#terminal.note(`-- ${text} --`);
    await this.endLine();
    await this.#terminal.line(`-- ${text} --`);
  }

  /** Changes nothing about the text, so that a pipe has the text without it. */
  async #remark(text: string): Promise<void> {
    if (this.#terminal.interactive && !this.#atLineStart) {
      await this.#terminal.text('\n');
      this.#atLineStart = true;
    }
    this.#terminal.note(`-- ${text} --`);
  }

  async #print(text: string): Promise<void> {
    if (!this.#live) return;
    let ready = this.#held + text;
    this.#held = HIGH_SURROGATE_AT_END.test(ready) ? ready.slice(-1) : '';
    ready = ready.slice(0, ready.length - this.#held.length);
    if (ready === '') return;
    this.#atLineStart = ready.endsWith('\n');
    await this.#terminal.text(ready);
  }
}

function formatSource({ n, path, heading, page }: Source): string {
  const where = [
    path,
    ...(page === undefined ? [] : [`page ${page}`]),
    ...(heading === undefined || heading === '' ? [] : [heading]),
  ];
  return `  [${n}] ${where.join(' · ')}`;
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
