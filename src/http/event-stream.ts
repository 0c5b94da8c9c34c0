/** The events of one job as a response, in the dialect of its reader. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { JobClient } from '../client/client.ts';
import type { EventPage } from '../client/types.ts';
import type { FollowedBatch } from '../journal/batches.ts';
import type { Cursor } from '../journal/cursor.ts';
import { isTerminalType } from '../journal/event.ts';
import type { ByteBudget } from './byte-budget.ts';
import { holdOf } from './counted-bytes.ts';
import { type Dialect, ReconnectRequired } from './dialects/dialect.ts';
import { frameOf, sharedFrames } from './frames.ts';
import type { OpenStreams } from './open-streams.ts';
import { isStoreUnavailable, loggableError } from './problem.ts';
import { type ResponseStream, refuseForNow, startResponse } from './response-stream.ts';

export interface StreamRoutesOptions {
  client: JobClient;
  streams: OpenStreams;
  /** A keepalive is sent when a stream was quiet this long. */
  keepaliveMs: number;
  budget: ByteBudget;
}

interface StreamRequest {
  id: string;
  /** A dialect whose frames depend on those before them reads from the start. */
  after: Cursor;
  dialect: Dialect;
  request: FastifyRequest;
  reply: FastifyReply;
}

/** Decides the status while it still can, then streams. */
export async function streamEvents(
  { client, streams, keepaliveMs, budget }: StreamRoutesOptions,
  { id, after, dialect, request, reply }: StreamRequest,
): Promise<FastifyReply> {
  const { tenant } = request;
  let page: EventPage;
  try {
    page = await client.readEvents(id, { tenant, after, limit: 0 });
  } catch (error) {
    // An EventSource never comes back after a 503.
    if (isStoreUnavailable(error)) {
      return refuseForNow(request, reply, { dialect, code: 'STORE_UNAVAILABLE', cause: error });
    }
    throw error;
  }
  if (page.finished && page.events.length === 0) return reply.code(204).send();
  if (streams.draining) return refuseForNow(request, reply, { dialect, code: 'SHUTTING_DOWN' });
  streams.admit(request, reply);
  const { account } = holdOf(request);
  const stream = startResponse(request, reply, { dialect, keepaliveMs, budget, account });
  if (stream === undefined) return reply;
  await streams.run(stream, async () => {
    await stream.write(dialect.open());
    let last = '';
    try {
      const committed = dialect.rewind === undefined;
      const batches = client.followBatches(id, {
        tenant,
        after,
        committed,
        signal: stream.signal,
        ...budget.streamBounds(account),
      });
      for await (const batch of batches) {
        const type = await sendBatch(batch, stream, dialect);
        if (type === undefined) return;
        if (type !== '') last = type;
      }
      // Not at the first terminal type: a failed job that was redriven has an `error` in the middle.
      if (isTerminalType(last)) stream.end(dialect.close());
      else if (!stream.signal.aborted) request.log.warn({ jobId: id }, 'follower ended before the terminal event');
    } catch (error) {
      if (error instanceof ReconnectRequired) request.log.debug({ jobId: id }, 'stream cut off, to be read again');
      else if (!stream.signal.aborted) request.log.warn({ jobId: id, err: loggableError(error) }, 'follower failed');
    }
  });
  return reply;
}

/**
 * A function of its own, so that a reader of a quiet stream holds nothing of what it was sent.
 *
 * @returns the type of the last event, empty where there was none; undefined when there is no use in sending more
 */
async function sendBatch(batch: FollowedBatch, stream: ResponseStream, dialect: Dialect): Promise<string | undefined> {
  const { source } = batch;
  if (source !== undefined && (dialect.shared || dialect.common !== undefined)) {
    const frames = sharedFrames(dialect, source, batch);
    return (await stream.writeFrames(frames)) ? frames.lastType : undefined;
  }
  let last = '';
  for (const event of batch) {
    last = event.event.type;
    const room = stream.write(frameOf(dialect, event));
    if (room !== true && !(await room)) return undefined;
  }
  return last;
}
