/** Terminal events, as both the run that ends a job and the reader of one without events write them. */
import type { StoredFailure } from '../../errors.ts';
import type { TerminalStatus } from '../jobs/states.ts';

interface Ending {
  status: TerminalStatus;
  /** JSON text; null: the handler returned undefined. */
  result: string | null;
  /** JSON text of a StoredFailure. */
  error: string | null;
}

/** The terminal event of an ending; the same ending always gives the same text. */
export function rowTerminalJson(ending: Ending): string {
  switch (ending.status) {
    case 'completed':
      return ending.result === null ? '{"type":"end"}' : `{"type":"end","result":${ending.result}}`;
    case 'failed':
      return `{"type":"error","error":${ending.error ?? JSON.stringify({ code: 'INTERNAL', message: '' } satisfies StoredFailure)}}`;
    case 'cancelled':
      return '{"type":"cancelled"}';
    default:
      return ending.status satisfies never;
  }
}

export const TERMINAL_TYPES: ReadonlySet<string> = new Set(['end', 'error', 'cancelled']);

/** Whether an event's JSON text is a terminal event. */
export function isTerminalEvent(json: string): boolean {
  return isTerminalType((JSON.parse(json) as { type: string }).type);
}

export function isTerminalType(type: string): boolean {
  return TERMINAL_TYPES.has(type);
}
