/**
 * The input of a job as its worker will have it. JSON is between the two: what is checked here is what
 * JSON makes of a value, or a job would be accepted that fails when it runs.
 */
import { InputInvalidError, type Issue, inputInvalid, MAX_ISSUES, toIssues } from '../errors.ts';
import type { AnyJobDefinition } from '../jobs/define-job.ts';
import { sampleIssues } from './sample.ts';

/** Characters of an input of which a part is looked at first. */
const LARGE_LENGTH = 32 * 1024;
/** An input with more problems is wrong, whatever JSON makes of it. */
const MAX_JSON_ISSUES = 1_000;

/**
 * @returns the JSON text, the value that it stands for, and what the schema makes of that
 * @throws InputInvalidError it is not JSON, loses something in JSON, or does not fit its schema
 */
export function checkedInput(
  definition: AnyJobDefinition,
  input: unknown,
): { text: string; value: unknown; parsed: unknown } {
  const what = `Input of job ${definition.name}`;
  const lost = lostInJson(input);
  if (lost.length > 0) throw new InputInvalidError(what, lost);
  let text: string | undefined;
  try {
    text = JSON.stringify(input === undefined ? null : input);
  } catch (cause) {
    throw new InputInvalidError(what, [{ path: '', message: `is not JSON: ${(cause as Error).message}` }]);
  }
  if (text === undefined) throw new InputInvalidError(what, [{ path: '', message: 'is not JSON' }]);
  const value: unknown = JSON.parse(text);
  const parsed = parse(definition, value, text, what);
  if (parsed.success) return { text, value, parsed: parsed.data };
  const { issues } = parsed.error;
  // Right as it was given, wrong as it arrives: a date that is a text by then, a NaN that is null.
  const onlyInJson = issues.length <= MAX_JSON_ISSUES && isAccepted(definition, input);
  if (!onlyInJson) throw inputInvalid(what, issues);
  const explained = toIssues(issues).map(({ path, message }) => ({ path, message: `${message} ${AS_JSON}` }));
  throw new InputInvalidError(what, explained, 'INPUT_INVALID', issues.length);
}

/** @throws InputInvalidError more problems than anybody reads, or more depth than its schema can look into */
function parse({ input: schema }: AnyJobDefinition, value: unknown, text: string, what: string) {
  try {
    const seen = text.length > LARGE_LENGTH ? sampleIssues(schema, value) : [];
    if (seen.length >= MAX_ISSUES) throw inputInvalid(what, seen);
    return schema.safeParse(value, { error: fewMessages() });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new InputInvalidError(what, [{ path: '', message: 'is nested too deeply for its schema' }]);
  }
}

/** zod words every problem, which costs more than finding it: ours are worded as long as somebody may read them. */
function fewMessages(): () => string | undefined {
  let worded = 0;
  return () => (++worded > MAX_JSON_ISSUES ? 'Invalid input' : undefined);
}

const AS_JSON =
  '(the worker gets what JSON makes of it: a Date is a text by then, for z.iso.datetime() or z.coerce.date(); NaN and Infinity are null)';

function isAccepted(definition: AnyJobDefinition, input: unknown): boolean {
  try {
    return definition.input.safeParse(input).success;
  } catch {
    return false;
  }
}

/** Values of which JSON keeps nothing, or something else, and says nothing: each with its path. */
function lostInJson(input: unknown): Issue[] {
  const issues: Issue[] = [];
  const seen = new Set<object>();
  const look = (value: unknown, path: string): void => {
    if (issues.length >= MAX_ISSUES || typeof value !== 'object' || value === null) return;
    const why = lostObject(value);
    if (why !== undefined) {
      issues.push({ path, message: why });
      return;
    }
    // It says itself what it is in JSON. A circle is JSON.stringify's to find.
    if (typeof (value as { toJSON?: unknown }).toJSON === 'function' || seen.has(value)) return;
    seen.add(value);
    if (Array.isArray(value)) {
      for (const [i, item] of value.entries()) {
        if (issues.length >= MAX_ISSUES) break;
        if (item === undefined || typeof item === 'function' || typeof item === 'symbol')
          issues.push({ path: `${path}[${i}]`, message: `${typeof item} in an array would arrive as null` });
        // A path for each of many numbers would take longer than all else.
        else if (typeof item === 'object') look(item, `${path}[${i}]`);
      }
    } else {
      for (const key of Object.keys(value)) {
        const item = (value as Record<string, unknown>)[key];
        if (typeof item === 'object') look(item, path === '' ? key : `${path}.${key}`);
      }
    }
    seen.delete(value);
  };
  try {
    look(input, '');
  } catch {
    // A proxy or a getter that throws, or a depth that no stack holds: JSON.stringify says so next.
  }
  return issues;
}

function lostObject(value: object): string | undefined {
  if (value instanceof Set || value instanceof Map)
    return `a ${value.constructor.name} would arrive as {}: send an array, [...it]`;
  if (ArrayBuffer.isView(value) && !Buffer.isBuffer(value))
    return `a ${value.constructor.name} would arrive as an object of numbers: send base64, or an array`;
  if (
    value instanceof ArrayBuffer ||
    value instanceof WeakMap ||
    value instanceof WeakSet ||
    value instanceof RegExp ||
    value instanceof Promise
  )
    return `a ${value.constructor.name} would arrive as {}`;
  return undefined;
}
