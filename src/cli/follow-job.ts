/** Watches a job's stream until its end, for `enqueue`, `ingest`, `ask` and `follow`. */
import { setTimeout } from 'node:timers/promises';
import type { JobClient } from '../client/client.ts';
import type { JobRecord } from '../client/types.ts';
import { JobFailedError, OncefleetError } from '../errors.ts';
import { isTerminalType, type StreamEvent, type TerminalEvent } from '../journal/event.ts';
import { CommandInterruptedError, toCommandError } from './report.ts';
import type { Interrupt } from './signals.ts';

/** A worker that is there takes a job within ms; after this a person deserves a word. */
const UNCLAIMED_NOTE_MS = 5_000;

/** A restart or a failover of Postgres takes seconds; longer than this a person should decide. */
const OUTAGE_LIMIT_MS = 60_000;
const OUTAGE_RETRY_MS = 1_000;
/** Trouble that comes later than this after the last is another outage. Above the connection timeout. */
const OUTAGE_GAP_MS = 10_000;

interface FollowJobOptions {
  after?: number;
  interrupt: Interrupt;
  /** Give up after this long, in milliseconds. */
  timeoutMs?: number;
  onEvent(event: StreamEvent): void | Promise<void>;
  /** Remarks for a person. */
  note(text: string): void;
  /** The outcome is what counts: where the events are gone, say so and leave the caller to the job's row. */
  outcomeOnly?: boolean;
  /** The job is an answer: hints say how to see its text, from the start, rather than its events. */
  text?: boolean;
}

/**
 * @returns the terminal event; `undefined` when `after` was at or past it, or with `outcomeOnly`
 *   its events are gone
 * @throws CommandInterruptedError a signal came; OncefleetError WAIT_TIMEOUT, STORE_UNAVAILABLE,
 *   JOB_NOT_FOUND, CURSOR_INVALID, STREAM_EXPIRED
 */
export async function followJob(
  client: JobClient,
  id: string,
  options: FollowJobOptions,
): Promise<TerminalEvent | undefined> {
  const { interrupt, timeoutMs } = options;
  const hint = () => (options.text === true ? `oncefleet follow ${id} --text` : followCommand(id, after));
  const timeout = timeoutMs === undefined ? undefined : AbortSignal.timeout(timeoutMs);
  const signal = timeout === undefined ? interrupt.signal : AbortSignal.any([interrupt.signal, timeout]);
  const forgetUnclaimed = noteWhenUnclaimed(client, id, options.note);
  let after = options.after;
  let terminal: TerminalEvent | undefined;
  try {
    for await (const event of followThroughOutages(client, id, { after, signal, note: options.note })) {
      forgetUnclaimed();
      if (isTerminalType(event.event.type)) terminal = event.event as TerminalEvent;
      await options.onEvent(event);
      after = event.seq;
    }
  } catch (error) {
    const expired = error instanceof OncefleetError && error.code === 'STREAM_EXPIRED';
    if (!expired || options.outcomeOnly !== true) throw error;
    options.note('Its events are no longer kept; this is its outcome');
    return undefined;
  } finally {
    forgetUnclaimed();
  }
  if (terminal !== undefined || !signal.aborted) return terminal;
  if (interrupt.signal.aborted) {
    throw new CommandInterruptedError(
      interrupt.by ?? 'SIGINT',
      `Stopped following; job ${id} continues. Follow it: ${hint()}`,
      {
        jobId: id,
        after: after ?? -1,
      },
    );
  }
  throw new OncefleetError(
    'WAIT_TIMEOUT',
    `Job ${id} has not ended within ${timeoutMs} ms and continues. Follow it: ${hint()}`,
    {
      details: { jobId: id, after: after ?? -1 },
    },
  );
}

/** The command that continues where a reader stood. */
function followCommand(id: string, after?: number): string {
  return after === undefined ? `oncefleet follow ${id}` : `oncefleet follow ${id} --after ${after}`;
}

/**
 * A stream's end as the command's: nothing for a completed job.
 *
 * @throws JobFailedError
 */
export function requireCompleted(id: string, terminal: TerminalEvent): void {
  if (terminal.type === 'error') throw new JobFailedError(id, 'failed', terminal.error);
  if (terminal.type === 'cancelled')
    throw new JobFailedError(id, 'cancelled', { code: 'CANCELLED', message: `Job ${id} was cancelled` });
}

/** The same from a job's record, for a reader that was past the end already. */
export function requireCompletedRecord(job: JobRecord): void {
  if (job.status === 'failed') {
    throw new JobFailedError(job.id, 'failed', job.error ?? { code: 'INTERNAL', message: 'The job failed' });
  }
  if (job.status === 'cancelled') requireCompleted(job.id, { type: 'cancelled' });
}

/**
 * The job's stream, taken up again where it broke off while Postgres was unreachable. Ends
 * quietly when the signal aborts.
 */
async function* followThroughOutages(
  client: JobClient,
  id: string,
  { after, signal, note }: { after: number | undefined; signal: AbortSignal; note(text: string): void },
): AsyncGenerator<StreamEvent, void, undefined> {
  let last = after;
  let outage: { since: number; until: number } | undefined;
  while (!signal.aborted) {
    try {
      for await (const event of client.follow(id, {
        signal,
        committed: true,
        // A person is told, and decides.
        throughOutages: false,
        ...(last === undefined ? {} : { after: last }),
      })) {
        last = event.seq;
        yield event;
      }
      return;
    } catch (thrown) {
      if (signal.aborted) return;
      const error = toCommandError(thrown);
      if (error.code !== 'STORE_UNAVAILABLE') throw withHint(error, id, last);
      const now = performance.now();
      if (outage === undefined || now - outage.until > OUTAGE_GAP_MS) {
        outage = { since: now, until: now };
        note(`${error.message}; trying again for ${OUTAGE_LIMIT_MS / 1_000} s`);
      }
      if (now - outage.since > OUTAGE_LIMIT_MS) throw withHint(error, id, last);
      await setTimeout(OUTAGE_RETRY_MS, undefined, { signal }).catch(() => {});
      outage.until = performance.now();
    }
  }
}

/** Says once that nobody seems to be there to run the job. */
function noteWhenUnclaimed(client: JobClient, id: string, note: (text: string) => void): () => void {
  const timer = globalThis.setTimeout(() => {
    client.get(id).then(
      (job) => {
        if (job?.status !== 'pending' || job.startedAt !== null) return;
        const waitMs = Date.parse(job.runAt) - Date.now();
        if (waitMs > 0) note(`Job ${id} is to start at ${job.runAt}`);
        else note(`Waiting: no worker has taken job ${id} yet. Is one running (\`oncefleet work\`)?`);
      },
      () => {}, // The follower meets the same trouble and reports it.
    );
  }, UNCLAIMED_NOTE_MS);
  return () => clearTimeout(timer);
}

function withHint(error: OncefleetError, id: string, after: number | undefined): OncefleetError {
  if (error.code !== 'STORE_UNAVAILABLE' && error.code !== 'SERVICE_MISSING') return error;
  return new OncefleetError(
    error.code,
    `${error.message}. Job ${id} continues; follow it again: ${followCommand(id, after)}`,
    {
      cause: error,
      details: { ...error.details, jobId: id, after: after ?? -1 },
    },
  );
}
