/** Values that a page does not show, by the names of their fields. */
import type { StreamEvent } from '../../journal/event.ts';
import { cursorOf } from '../cursor.ts';
import type { Dialect } from '../dialects/dialect.ts';
import { NATIVE } from '../dialects/native.ts';
import { formatFrame } from '../sse.ts';

const HIDDEN = '[redacted]';
/** Deeper values are not shown either. */
const MAX_DEPTH = 50;

/** A copy in which fields of these names have no value, whatever their case, however deep they are. */
export function redact(value: unknown, fields: readonly string[]): unknown {
  const names = new Set(fields.map((field) => field.toLowerCase()));
  return names.size === 0 ? value : copy(value, names, 0);
}

function copy(value: unknown, names: ReadonlySet<string>, depth: number): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (depth > MAX_DEPTH) return HIDDEN;
  if (Array.isArray(value)) return value.map((item) => copy(item, names, depth + 1));
  return Object.fromEntries(
    Object.entries(value).map(([name, field]) => [
      name,
      names.has(name.toLowerCase()) ? HIDDEN : copy(field, names, depth + 1),
    ]),
  );
}

/** The fleet's own dialect, without the values of these fields. */
export function redactedDialect(fields: readonly string[]): Dialect {
  if (fields.length === 0) return NATIVE;
  const dataOf = ({ event }: StreamEvent) => JSON.stringify(redact(event, fields));
  const frameOf = (event: StreamEvent) =>
    formatFrame({ id: cursorOf(event), event: event.event.type, data: dataOf(event) });
  return {
    ...NATIVE,
    shared: false,
    event: frameOf,
    attempt: frameOf,
    end: frameOf,
    rewind: (event) => formatFrame({ event: event.event.type, data: dataOf(event) }),
  };
}
