/** The options of a job's row as they are read: within their bounds, whoever wrote them. */
import { CENTURY_MS, clamp, clampWhole, MAX_INT, toNumber } from '../../numbers.ts';
import { toCarrier } from '../../util/tracing.ts';
import type { RowOptions } from './insert.ts';

/** BullMQ's own bounds. */
const PRIORITY = { min: 0, max: 2_097_151, default: 0 };
/** BullMQ's meaning of a job without attempts, and of attempts that are no number: the first error is the last. */
const ATTEMPTS = { min: 1, max: MAX_INT, default: 1 };
const DELAY_MS = { min: 0, max: CENTURY_MS, default: 0 };
const JITTER = { min: 0, max: 1, default: 0 };
/** Of a row without a backoff: what `defineJob` gives. */
const BACKOFF: RowOptions['backoff'] = { type: 'exponential', delayMs: 1_000 };

/** Most jobs of a fleet have one of a few texts of options. */
const MAX_PARSED = 1_000;

const parsed = new Map<string, RowOptions>();

/** Options from a row's text. Never throws: a row that somebody spoilt must not keep others from being read. */
export function readRowOptions(text: string): RowOptions {
  let options = parsed.get(text);
  if (options === undefined) {
    options = Object.freeze(clampRowOptions(parse(text)));
    if (parsed.size >= MAX_PARSED) parsed.clear();
    parsed.set(text, options);
  }
  return options;
}

/** Options of any origin as a row may have them. */
export function clampRowOptions(given: unknown): RowOptions {
  const { priority, attempts, backoff, publish, keyless, trace } = asObject(given);
  const carrier = toCarrier(trace);
  return {
    priority: clampWhole(priority, PRIORITY),
    // As BullMQ compares them: 2.5 attempts are three.
    attempts: Math.ceil(clamp(attempts, ATTEMPTS)),
    backoff: clampBackoff(backoff),
    ...(publish === 'immediate' ? { publish } : {}),
    ...(keyless === true ? { keyless } : {}),
    ...(carrier === undefined ? {} : { trace: carrier }),
  };
}

function clampBackoff(given: unknown): RowOptions['backoff'] {
  const { type, delayMs, maxDelayMs, jitter } = asObject(given);
  if (type !== 'fixed' && type !== 'exponential') return BACKOFF;
  return {
    type,
    delayMs: clamp(delayMs, DELAY_MS),
    ...(Number.isNaN(toNumber(maxDelayMs)) ? {} : { maxDelayMs: clamp(maxDelayMs, DELAY_MS) }),
    ...(Number.isNaN(toNumber(jitter)) ? {} : { jitter: clamp(jitter, JITTER) }),
  };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function asObject(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}
