/** Which streams a reader of several asks for, and where it stands in each of them. */
import { InputInvalidError, OncefleetError } from '../errors.ts';
import type { StreamEvent } from '../journal/event.ts';
import { isUuid } from '../util/uuid.ts';
import { cursorOf, readCursor } from './cursor.ts';
import { MAX_STREAMS } from './schemas.ts';

/** Where a reader stands in each of its streams. */
export class Cursors {
  readonly ids: readonly string[];
  readonly #keys: ReadonlyMap<string, string>;
  /** Tokens as the streams gave them; absent: from the start. */
  readonly #tokens = new Map<string, string>();

  /** @throws OncefleetError CURSOR_INVALID */
  constructor(ids: readonly string[], text: string | undefined) {
    this.ids = ids;
    this.#keys = keysOf(ids);
    if (text === undefined) return;
    const idByKey = new Map([...this.#keys].flatMap(([id, key]) => [[key, id] as const, [id, id] as const]));
    for (const pair of text.split(',')) {
      const [, key, token] = /^([0-9a-f-]{12,36})=([^,=]+)$/.exec(pair) ?? [];
      if (key === undefined || token === undefined)
        throw new OncefleetError('CURSOR_INVALID', 'A cursor of several streams is an `id` that this route gave');
      readCursor(token);
      // A page may have closed one of its streams: what it knew of that one does no harm.
      const id = idByKey.get(key);
      if (id !== undefined) this.#tokens.set(id, token);
    }
  }

  of(id: string): ReturnType<typeof readCursor> {
    return readCursor(this.#tokens.get(id));
  }

  moveTo(id: string, event: StreamEvent): void {
    // A reader that loses its connection right after a rewind needs it again.
    if (event.event.type !== 'rewind') this.#tokens.set(id, cursorOf(event));
  }

  toString(): string {
    return [...this.#tokens].map(([id, token]) => `${this.#keys.get(id)}=${token}`).join(',');
  }
}

/** The last group of each id, which is random; whole ids where two of them share it. */
function keysOf(ids: readonly string[]): Map<string, string> {
  const groups = ids.map((id) => id.slice(-12));
  const unique = new Set(groups).size === groups.length;
  return new Map(ids.map((id, i) => [id, unique ? (groups[i] as string) : id]));
}

/** The ids of `?streams=`. @throws InputInvalidError */
export function readStreamIds(text: string): string[] {
  // Where each stands first: one bad id over and over is one issue.
  const places = new Map<string, number>();
  for (const [i, part] of text.split(',').entries()) {
    const id = part.toLowerCase();
    if (id !== '' && !places.has(id)) places.set(id, i);
  }
  if (places.size === 0 || places.size > MAX_STREAMS) {
    throw new InputInvalidError('Query', [
      { path: 'streams', message: `expected 1 to ${MAX_STREAMS} ids of jobs with commas between, not ${places.size}` },
    ]);
  }
  const issues = [...places].flatMap(([id, i]) =>
    isUuid(id) ? [] : [{ path: `streams[${i}]`, message: 'expected the id of a job, a UUID' }],
  );
  if (issues.length > 0) throw new InputInvalidError('Query', issues);
  return [...places.keys()];
}
