import { isTransient } from '../db/transient.ts';
import { refusalOf } from '../redis/refusals.ts';

/**
 * At which level an error of BullMQ's is logged: of an outage and of a refusal the connection tells
 * once (`connections.ts`, `watch.ts`); BullMQ would with every try.
 */
export function queueErrorLevel(error: unknown): 'debug' | 'warn' {
  return isTransient(error) || refusalOf(error) !== undefined ? 'debug' : 'warn';
}
