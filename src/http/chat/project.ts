/** What the journal of a job comes to in a dialect: now, or once the job has ended. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { JobClient } from '../../client/client.ts';
import { OncefleetError } from '../../errors.ts';
import type { Cursor } from '../../journal/cursor.ts';
import type { ByteBudget } from '../byte-budget.ts';
import { holdOf } from '../counted-bytes.ts';
import type { Dialect } from '../dialects/dialect.ts';
import { frameOf } from '../frames.ts';
import type { OpenStreams } from '../open-streams.ts';

/** Events read at a time. */
const PAGE_EVENTS = 1_000;

interface ProjectOptions {
  client: JobClient;
  streams: OpenStreams;
  budget: ByteBudget;
}

/** Gives a dialect all events that there are. @returns whether the job has ended @throws OncefleetError JOB_NOT_FOUND, STREAM_EXPIRED, BUSY */
export async function projectJournal(
  { client, budget }: ProjectOptions,
  jobId: string,
  dialect: Dialect,
  request: FastifyRequest,
): Promise<boolean> {
  const { tenant } = request;
  let after: Cursor = -1;
  dialect.open();
  for (;;) {
    const { events, next, finished } = await budget.read(holdOf(request), () =>
      client.readEvents(jobId, { tenant, after, limit: PAGE_EVENTS }),
    );
    for (const event of events) frameOf(dialect, event);
    after = next;
    if (finished) dialect.close();
    if (finished || events.length === 0) return finished;
  }
}

/** The same, for what the dialect notes alone: none of what was read is kept, and the stream that follows counts anew. */
export async function scanJournal(
  options: ProjectOptions,
  jobId: string,
  dialect: Dialect,
  request: FastifyRequest,
): Promise<void> {
  await projectJournal(options, jobId, dialect, request);
  holdOf(request).set(0);
}

/** What the journal comes to once the job has ended. @throws OncefleetError SHUTTING_DOWN; nothing where the client has gone */
export async function projectToEnd(
  options: ProjectOptions,
  jobId: string,
  dialect: () => Dialect,
  { request, reply }: { request: FastifyRequest; reply: FastifyReply },
): Promise<Dialect> {
  const { client, streams } = options;
  const { tenant } = request;
  const waiting = new AbortController();
  const stop = () => waiting.abort();
  reply.raw.once('close', stop);
  streams.drainSignal.addEventListener('abort', stop);
  if (streams.draining) stop();
  try {
    for (;;) {
      const read = dialect();
      if (await projectJournal(options, jobId, read, request)) return read;
      holdOf(request).set(0);
      await client.result(jobId, { tenant, signal: waiting.signal }).catch((error: unknown) => {
        // However it ended, the journal says it.
        if (waiting.signal.aborted) throw error;
        if (!isOutcome(error)) throw error;
      });
    }
  } catch (error) {
    if (!streams.draining) throw error;
    throw new OncefleetError('SHUTTING_DOWN', 'This process is closing; ask for the answer again', { cause: error });
  } finally {
    reply.raw.off('close', stop);
    streams.drainSignal.removeEventListener('abort', stop);
  }
}

function isOutcome(error: unknown): boolean {
  return error instanceof Error && error.name === 'JobFailedError';
}
