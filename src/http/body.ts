/** Bodies of requests: read within a limit of bytes and of time, and taken for plain JSON. */
import type { Readable } from 'node:stream';
import type { FastifyRequest } from 'fastify';
import { refuseInfinite } from '../enqueue/json-numbers.ts';
import { OncefleetError } from '../errors.ts';
import { FairTurns } from '../util/turns.ts';
import type { Hold } from './byte-budget.ts';

/** A body of which nothing came for this long is given up. */
export const BODY_STALL_MS = 10_000;

/** For all of a body: this, and what a slow link needs for the largest one that is allowed. */
const MAX_WAIT_MS = 60_000;
const SLOWEST_BYTES_PER_S = 16 * 1024;

/** Bodies of routes that take no input of a job: a few options, or nothing. */
export const CONTROL_BODY_BYTES = 16 * 1024;

/** About what V8 takes for an object or array, and for each further value in it. */
const OBJECT_BYTES = 56;
const VALUE_BYTES = 24;
const [OBJECT, ARRAY, COMMA] = [...'{[,'].map((character) => character.charCodeAt(0));

/** Larger ones are parsed one at a time, in half of the time at the most: others are answered between two of them. */
const LARGE_BYTES = 64 * 1024;

/** Most bodies fit; the buffer of one that does not doubles. */
const FIRST_BUFFER_BYTES = 16 * 1024;

/**
 * A parser of Fastify's for application/json. Not its own, which waits for ever and refuses `__proto__` keys: those
 * are data like any other here.
 */
export function createBodyParser(stallMs: number) {
  const turns = new FairTurns();
  return async (request: FastifyRequest, payload: Readable): Promise<unknown> => {
    const encoding = request.headers['content-encoding'];
    if (encoding !== undefined && encoding !== 'identity')
      throw new OncefleetError('MEDIA_TYPE_UNSUPPORTED', 'Send the body without content-encoding');
    const limit = request.routeOptions.bodyLimit;
    if (Number(request.headers['content-length']) > limit) throw tooLarge(limit);
    const { hold } = request;
    const body = await readBody(payload, { limit, stallMs, hold });
    if (body.length <= LARGE_BYTES) {
      hold?.grow(heldByJson(body));
      return parseJson(body);
    }
    const endTurn = await turns.take(hold?.account ?? '');
    const begun = performance.now();
    // The look at the input's schema comes in the same turn of the event loop. Others have as much time before the next.
    setImmediate(() => setTimeout(endTurn, performance.now() - begun));
    hold?.grow(heldByJson(body));
    return parseJson(body);
  };
}

interface Bounds {
  limit: number;
  stallMs: number;
  /** What has come is counted there. */
  hold: Hold | undefined;
}

/** @throws OncefleetError BODY_TOO_LARGE, BUSY, REQUEST_STALLED, BODY_INVALID it broke off */
function readBody(payload: Readable, { limit, stallMs, hold }: Bounds): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  // Copied together as it comes: a chunk of one byte takes a hundred while it is kept.
  let bytes = Buffer.allocUnsafe(0);
  let length = 0;
  const onStall = () =>
    reject(new OncefleetError('REQUEST_STALLED', `No more of the body came for ${stallMs} ms; send it again`));
  const onSlow = () => reject(new OncefleetError('REQUEST_STALLED', 'The body comes too slowly; send it again'));
  const timer = setTimeout(onStall, stallMs);
  const slow = setTimeout(onSlow, MAX_WAIT_MS + (limit / SLOWEST_BYTES_PER_S) * 1_000);
  const onData = (chunk: Buffer) => {
    timer.refresh();
    const needed = length + chunk.length;
    if (needed > limit) {
      reject(tooLarge(limit));
      return;
    }
    if (needed > bytes.length) {
      let size = Math.max(bytes.length, FIRST_BUFFER_BYTES);
      while (size < needed) size *= 2;
      size = Math.min(size, limit);
      try {
        hold?.grow(size);
      } catch (error) {
        reject(error);
        return;
      }
      const larger = Buffer.allocUnsafe(size);
      bytes.copy(larger, 0, 0, length);
      bytes = larger;
    }
    chunk.copy(bytes, length);
    length = needed;
  };
  const onEnd = () => resolve(bytes.subarray(0, length));
  const onError = () => reject(new OncefleetError('BODY_INVALID', 'The body could not be read to its end'));
  payload.on('data', onData).on('end', onEnd).on('error', onError).on('close', onError);
  return promise.finally(() => {
    clearTimeout(timer);
    clearTimeout(slow);
    payload.off('data', onData).off('end', onEnd).off('error', onError).off('close', onError);
  });
}

/** What a document takes as text, as its value and as the texts that are made of it again: `[[],[],…` has more objects than bytes. */
function heldByJson(body: Buffer): number {
  let held = 3 * body.length;
  for (const byte of body) {
    if (byte === OBJECT || byte === ARRAY) held += OBJECT_BYTES;
    else if (byte === COMMA) held += VALUE_BYTES;
  }
  return held;
}

function parseJson(body: Buffer): unknown {
  // An empty body is no body; the route knows whether it needs one.
  if (body.length === 0) return undefined;
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(body);
    value = JSON.parse(text);
  } catch (cause) {
    const why = cause instanceof SyntaxError ? cause.message : 'it is not UTF-8';
    throw new OncefleetError('BODY_INVALID', `The body is not valid JSON: ${why.slice(0, 200)}`);
  }
  refuseInfinite('Body', text, value);
  return value;
}

function tooLarge(limit: number): OncefleetError {
  return new OncefleetError('BODY_TOO_LARGE', `The body is larger than this server accepts: ${limit} bytes`);
}
