/**
 * What a stream has said so far, for dialects that send its text in parts of their own: the text that counts, its sources
 * and its usage. An attempt that starts over takes a part of it back.
 *
 * Values are replaced, never changed, so that readers of one stream may share them.
 */
import type { AttemptEvent, StreamEvent } from '../../journal/event.ts';
import { supersededFrom } from '../../journal/superseded.ts';

export interface Source {
  n: number;
  path: string;
  heading: string;
  documentId: string;
}

interface Usage {
  inputTokens: number;
  outputTokens: number;
  totalTokens: number;
}

export interface Transcript {
  readonly text: string;
  readonly reasoning: string;
  readonly sources: readonly Source[];
  /** Of all attempts, also of those that were taken back: they were paid for. */
  readonly usage: Usage | undefined;
  /** The last event that changed it, and what it was before. */
  readonly mark: Mark | undefined;
}

interface Mark {
  readonly seq: number;
  readonly textLength: number;
  readonly reasoningLength: number;
  readonly sources: readonly Source[];
  readonly before: Mark | undefined;
}

export const NOTHING_SAID: Transcript = { text: '', reasoning: '', sources: [], usage: undefined, mark: undefined };

/** The transcript after an event of the handler: the same object where the event says nothing. */
export function say(said: Transcript, { seq, event }: StreamEvent): Transcript {
  switch (event.type) {
    case 'delta':
      return textOf(event) === '' ? said : marked({ ...said, text: said.text + textOf(event) }, seq);
    case 'reasoning':
      return textOf(event) === '' ? said : marked({ ...said, reasoning: said.reasoning + textOf(event) }, seq);
    case 'sources':
      return marked({ ...said, sources: readSources(event.sources) }, seq);
    case 'usage':
      return { ...said, usage: addUsage(said.usage, event) };
    default:
      return said;
  }
}

/** What an attempt leaves of it: the same object where it takes nothing back. */
export function startOver(said: Transcript, attempt: Pick<AttemptEvent, 'resumed' | 'from'>, seq: number): Transcript {
  const from = supersededFrom(attempt, seq);
  let { mark } = said;
  while (mark !== undefined && mark.seq >= from) mark = mark.before;
  if (mark === said.mark) return said;
  return {
    text: said.text.slice(0, mark?.textLength ?? 0),
    reasoning: said.reasoning.slice(0, mark?.reasoningLength ?? 0),
    sources: mark?.sources ?? [],
    usage: said.usage,
    mark,
  };
}

/** The text of a result, for jobs that emit none of it: `{ text }`, or a text. */
export function textOfResult(result: unknown): string {
  if (typeof result === 'string') return result;
  return typeof result === 'object' ? textOf(result) : '';
}

export function textOf(value: object | null | undefined): string {
  const text = (value as { text?: unknown } | null | undefined)?.text;
  return typeof text === 'string' ? text : '';
}

function marked(said: Transcript, seq: number): Transcript {
  const { text, reasoning, sources, mark } = said;
  return {
    ...said,
    mark: { seq, textLength: text.length, reasoningLength: reasoning.length, sources, before: mark },
  };
}

/** Handlers of users emit what they like: what is no source is left out. */
export function readSources(given: unknown): readonly Source[] {
  if (!Array.isArray(given)) return [];
  return given.flatMap((value: unknown, index) => {
    if (typeof value !== 'object' || value === null) return [];
    const { n, path, heading, documentId } = value as Record<string, unknown>;
    const name = typeof path === 'string' ? path : '';
    return [
      {
        n: typeof n === 'number' ? n : index + 1,
        path: name,
        heading: typeof heading === 'string' ? heading : '',
        documentId: typeof documentId === 'string' ? documentId : name,
      },
    ];
  });
}

function addUsage(sum: Usage | undefined, event: Record<string, unknown>): Usage {
  const input = count(event.inputTokens);
  const output = count(event.outputTokens);
  return {
    inputTokens: (sum?.inputTokens ?? 0) + input,
    outputTokens: (sum?.outputTokens ?? 0) + output,
    totalTokens: (sum?.totalTokens ?? 0) + (count(event.totalTokens) || input + output),
  };
}

function count(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) && value > 0 ? Math.round(value) : 0;
}
