/** The table of what becomes of a run, by how it ended. No server: a verdict is a pure function. */

import { type Job, UnrecoverableError } from 'bullmq';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ClaimedJob } from '../../src/db/jobs/claim.ts';
import { clampRowOptions } from '../../src/db/jobs/row-options.ts';
import { attemptOf } from '../../src/db/jobs/states.ts';
import {
  CancelledError,
  InputInvalidError,
  InterruptedError,
  LeaseLostError,
  NonRetryableError,
  OncefleetError,
  RetryAfterError,
} from '../../src/errors.ts';
import { CENTURY_MS } from '../../src/numbers.ts';
import {
  encodeResult,
  settlementOf,
  verdictByBullMQ,
  verdictOfAbort,
  verdictOfControlFlow,
  verdictOfError,
} from '../../src/runs/verdict.ts';

const ID = '018f0000-0000-7000-8000-000000000000';

function claimed(errorCount: number, options: unknown = {}): ClaimedJob {
  const given = { attempts: 3, backoff: { type: 'fixed', delayMs: 100, jitter: 0 }, ...(options as object) };
  return {
    id: ID,
    owner: 'owner',
    tenant: 'default',
    name: 'job',
    queue: 'job',
    key: null,
    fence: 1,
    input: '{}',
    options: clampRowOptions(given),
    crashCount: 0,
    errorCount,
    interruptionCount: 0,
    lastOutcome: null,
    checkpoint: null,
    checkpointSeq: null,
    deadlineLeftMs: null,
    nextSeq: 0,
    claimedAt: 0,
  };
}

/** A BullMQ job that says this about an error. */
function bullJob(decision: () => unknown, delay?: unknown): Job {
  return { shouldRetryJob: async () => decision(), delay } as unknown as Job;
}

const invalid = (code: 'INPUT_INVALID' | 'OUTPUT_INVALID') => new InputInvalidError('x', [], code);

class Final extends UnrecoverableError {
  override name = 'Final';
}

describe('a handler that throws', () => {
  it.each<[string, Error, number, 'failed' | 'retry', number | undefined]>([
    ['an error, with attempts left', new Error('x'), 0, 'retry', 100],
    ['an error, at the last attempt', new Error('x'), 2, 'failed', undefined],
    ['an error, past the last attempt', new Error('x'), 7, 'failed', undefined],
    ['NonRetryableError', new NonRetryableError('x'), 0, 'failed', undefined],
    ['UnrecoverableError', new UnrecoverableError('x'), 0, 'failed', undefined],
    ['a class derived from UnrecoverableError', new Final('x'), 0, 'failed', undefined],
    ['an input that its schema refuses', invalid('INPUT_INVALID'), 0, 'failed', undefined],
    ['an output that its schema refuses', invalid('OUTPUT_INVALID'), 0, 'failed', undefined],
    ['an event that cannot be journalled', new OncefleetError('EVENT_INVALID', 'x'), 0, 'retry', 100],
    ['RetryAfterError', new RetryAfterError('x', 7_000), 0, 'retry', 7_000],
    ['RetryAfterError of 0', new RetryAfterError('x', 0), 0, 'retry', 0],
    ['RetryAfterError at the last attempt', new RetryAfterError('x', 7_000), 2, 'failed', undefined],
    ['RetryAfterError of less than nothing', new RetryAfterError('x', -1), 0, 'retry', 0],
    ['RetryAfterError of three billion years', new RetryAfterError('x', 1e20), 0, 'retry', CENTURY_MS],
    ['RetryAfterError of NaN', new RetryAfterError('x', Number.NaN), 0, 'retry', 100],
    ['RetryAfterError of Infinity', new RetryAfterError('x', Number.POSITIVE_INFINITY), 0, 'retry', 100],
    ['RetryAfterError of a header', new RetryAfterError('x', '7000' as unknown as number), 0, 'retry', 7_000],
    ['RetryAfterError of a date', new RetryAfterError('x', 'Fri, 01 Jan' as unknown as number), 0, 'retry', 100],
    ['RetryAfterError of nothing', new RetryAfterError('x', null as unknown as number), 0, 'retry', 100],
  ])('%s', (_what, error, errorCount, kind, delayMs) => {
    const verdict = verdictOfError(error, claimed(errorCount));
    expect(verdict).toMatchObject({ kind, error });
    if (delayMs !== undefined) expect(verdict).toHaveProperty('delayMs', delayMs);
    expect(settlementOf(verdict).outcome).toBe('error');
  });

  it.each<[string, unknown, number]>([
    ['fixed', { type: 'fixed', delayMs: 100, jitter: 0 }, 100],
    ['exponential', { type: 'exponential', delayMs: 100, jitter: 0 }, 400],
    ['bounded', { type: 'exponential', delayMs: 100, jitter: 0, maxDelayMs: 250 }, 250],
    ['bounded by itself', { type: 'fixed', delayMs: 1e9, jitter: 0 }, 300_000],
    ['less than nothing', { type: 'fixed', delayMs: -100, jitter: 0 }, 0],
    ['random by more than all of it', { type: 'fixed', delayMs: 0, jitter: 9 }, 0],
    ['a text', { type: 'fixed', delayMs: '100', jitter: '0' }, 100],
    ['no number', { type: 'fixed', delayMs: 'soon', jitter: 0 }, 0],
    ['infinite', { type: 'exponential', delayMs: Number.POSITIVE_INFINITY, jitter: 0 }, 300_000],
  ])('waits for a backoff that is %s', (_what, backoff, delayMs) => {
    expect(verdictOfError(new Error('x'), claimed(2, { attempts: 9, backoff }))).toHaveProperty('delayMs', delayMs);
  });

  it.each([0, -1, Number.NaN, 'many', null, {}])('fails at once with attempts of %s', (attempts) => {
    expect(verdictOfError(new Error('x'), claimed(0, { attempts }))).toHaveProperty('kind', 'failed');
  });

  it('ends within its attempts and waits for a time that Postgres takes, whatever the numbers', () => {
    const odd = fc.oneof(fc.anything(), fc.double(), fc.constantFrom(-0, 1e20, 2 ** 31, 2 ** 53 + 1, '5', '1e400'));
    fc.assert(
      fc.property(odd, odd, odd, odd, (attempts, delayMs, jitter, retryAfterMs) => {
        const options = { attempts, backoff: { type: 'exponential', delayMs, jitter, maxDelayMs: delayMs } };
        const limit = claimed(0, options).options.attempts;
        expect(verdictOfError(new Error('x'), claimed(limit - 1, options)).kind).toBe('failed');
        for (const error of [new Error('x'), new RetryAfterError('x', retryAfterMs as number)]) {
          const { delayMs: waits } = settlementOf(verdictOfError(error, claimed(0, options)));
          expect(waits).toBeGreaterThanOrEqual(0);
          expect(waits).toBeLessThanOrEqual(CENTURY_MS);
        }
      }),
    );
  });
});

describe("a user's own processor that throws", () => {
  it.each<[string, Error, unknown, object]>([
    ['and BullMQ retries', new Error('x'), [true, 50], { kind: 'retry', delayMs: 50 }],
    ['and BullMQ retries at once', new Error('x'), [true, undefined], { kind: 'retry', delayMs: 0 }],
    ['and BullMQ gives up', new Error('x'), [false, 0], { kind: 'failed' }],
    ['UnrecoverableError', new UnrecoverableError('x'), [true, 50], { kind: 'failed' }],
    ['RetryAfterError', new RetryAfterError('x', 70), [true, 50], { kind: 'retry', delayMs: 70 }],
    ['RetryAfterError, and BullMQ gives up', new RetryAfterError('x', 70), [false, 0], { kind: 'failed' }],
    ['RetryAfterError of NaN', new RetryAfterError('x', Number.NaN), [true, 50], { kind: 'retry', delayMs: 50 }],
    ['and the strategy gives NaN', new Error('x'), [true, Number.NaN], { kind: 'retry', delayMs: 0 }],
    ['and the strategy gives less than nothing', new Error('x'), [true, -50], { kind: 'retry', delayMs: 0 }],
    ['and the strategy gives a text', new Error('x'), [true, '50'], { kind: 'retry', delayMs: 50 }],
    ['and the strategy gives a word', new Error('x'), [true, 'soon'], { kind: 'retry', delayMs: 0 }],
    ['and the strategy gives a bigint', new Error('x'), [true, 50n], { kind: 'retry', delayMs: 50 }],
    ['and the strategy gives an object', new Error('x'), [true, { ms: 50 }], { kind: 'retry', delayMs: 0 }],
    ['and the strategy gives a symbol', new Error('x'), [true, Symbol('50')], { kind: 'retry', delayMs: 0 }],
    ['and the strategy gives Infinity', new Error('x'), [true, 1 / 0], { kind: 'retry', delayMs: CENTURY_MS }],
  ])('%s', async (_what, error, decision, expected) => {
    expect(
      await verdictByBullMQ(
        error,
        bullJob(() => decision),
      ),
    ).toMatchObject({ error, ...expected });
  });

  it('is left to BullMQ where its strategy throws', async () => {
    const job = bullJob(() => {
      throw new Error('no such strategy');
    });
    expect(await verdictByBullMQ(new Error('x'), job)).toMatchObject({ kind: 'retry', delayMs: 0, undecided: true });
  });

  it.each<[string, unknown, number | undefined]>([
    ['DelayedError', 50, 50],
    ['DelayedError', -50, 0],
    ['DelayedError', Number.NaN, 0],
    ['DelayedError', undefined, 0],
    ['DelayedError', '50', 50],
    ['WaitingError', 50, 0],
    ['WaitingChildrenError', 50, 0],
    ['RateLimitError', 50, 0],
    ['Error', 50, undefined],
  ])('%s with a delay of %s', (name, delay, delayMs) => {
    const error = Object.assign(new Error('x'), { name });
    const verdict = verdictOfControlFlow(
      error,
      bullJob(() => [true, 0], delay),
    );
    expect(verdict).toEqual(delayMs === undefined ? undefined : { kind: 'deferred', error, delayMs });
  });
});

describe('a run that is aborted', () => {
  it.each<[string, Error, string | undefined]>([
    ['by a cancel', new CancelledError(ID), 'cancelled'],
    ['by a worker that closes', new InterruptedError(ID), 'interrupted'],
    ['by a lost lease', new LeaseLostError(ID, 1, 'x'), 'lost'],
    ['by its deadline', new OncefleetError('DEADLINE_EXCEEDED', 'x'), 'failed'],
    ['by an event that Postgres refuses', new OncefleetError('JOURNAL_REFUSED', 'x'), 'failed'],
    ['by its timeout, which is an error like any other', new OncefleetError('TIMEOUT', 'x'), undefined],
    ['by somebody else', new Error('x'), undefined],
  ])('%s', (_what, reason, kind) => {
    expect(verdictOfAbort(reason)?.kind).toBe(kind);
  });
});

it.each<[unknown, string | null]>([
  [undefined, null],
  [null, 'null'],
  [Number.NaN, 'null'],
  [0, '0'],
  [2 ** 53, '9007199254740992'],
  ['', '""'],
])('the result %o is stored as %s', (value, json) => {
  expect(encodeResult(value)).toBe(json);
});

it.each([
  [
    { kind: 'completed', result: '1' },
    { status: 'completed', outcome: 'completed', result: '1', error: null },
  ],
  [{ kind: 'interrupted' }, { status: 'pending', outcome: 'interruption', result: null, error: null, delayMs: 0 }],
  [
    { kind: 'deferred', error: new Error('x'), delayMs: 5 },
    { status: 'pending', outcome: 'deferral', error: null, delayMs: 5 },
  ],
  [
    { kind: 'cancelled', failure: { code: 'CANCELLED', message: 'x' } },
    { status: 'cancelled', outcome: 'cancelled', error: '{"code":"CANCELLED","message":"x"}' },
  ],
] as const)('the verdict %o is settled', (verdict, expected) => {
  expect(settlementOf(verdict)).toMatchObject(expected);
});

it('a crash, an error and an interruption begin a new attempt; a deferral does not', () => {
  expect(attemptOf({ crashCount: 1, errorCount: 2, interruptionCount: 3 })).toBe(7);
});
