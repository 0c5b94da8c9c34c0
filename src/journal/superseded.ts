import type { AttemptEvent } from './event.ts';

/** What an attempt takes from readers: the events from this seq on that are before its own. @param seq of the attempt's event */
export function supersededFrom({ resumed, from }: Pick<AttemptEvent, 'resumed' | 'from'>, seq: number): number {
  if (!resumed) return 0;
  // Without `from` a resumed attempt keeps everything.
  return from ?? seq;
}
