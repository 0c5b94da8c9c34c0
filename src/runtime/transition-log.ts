import type { Logger } from '../log.ts';
import type { Transition } from './observers.ts';

/** The log's view of transitions: one line each, at level debug. What needs a person's attention has a line of its own elsewhere. */
export function logTransition(log: Logger, { type, at: _at, process: _process, ...facts }: Transition): void {
  log.debug(facts, `job ${type}`);
}
