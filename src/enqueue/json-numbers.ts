/** JSON may say numbers that no double holds, such as 1e400: parsed they are infinite, and written again they are null. */
import { InputInvalidError, type Issue, MAX_ISSUES } from '../errors.ts';

/** Nothing shorter is infinite: an exponent of three digits, or 300 digits. */
const MAY_BE_INFINITE = /[eE]\+?\d{3}|\d{300}/;

/** @throws InputInvalidError the value of a JSON text has infinite numbers; each with its path */
export function refuseInfinite(what: string, text: string, value: unknown): void {
  if (!MAY_BE_INFINITE.test(text)) return;
  const issues: Issue[] = [];
  // No recursion: a body is as deep as it is long.
  const open: [path: string, value: unknown][] = [['', value]];
  for (let next = open.pop(); next !== undefined && issues.length < MAX_ISSUES; next = open.pop()) {
    const [path, at] = next;
    if (typeof at === 'number' && !Number.isFinite(at))
      issues.push({ path, message: 'is larger than a number can be (1.8e308); send it as a text' });
    if (typeof at !== 'object' || at === null) continue;
    for (const [key, item] of Object.entries(at).reverse()) {
      if (typeof item !== 'number' && typeof item !== 'object') continue;
      open.push([Array.isArray(at) ? `${path}[${key}]` : path === '' ? key : `${path}.${key}`, item]);
    }
  }
  if (issues.length > 0) throw new InputInvalidError(what, issues);
}
