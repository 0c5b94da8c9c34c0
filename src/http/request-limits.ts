/**
 * How many requests a caller may make, and how many streams it may have open, in this process.
 *
 * A caller is a token, a ticket's stream or a session; what comes without one that is good is counted by its address. So
 * those who share an address with a stranger are not locked out by the stranger's wrong tokens, and made-up tokens
 * are no new callers. What is remembered is bounded: of more callers the one that was seen first is forgotten.
 */
import { isIPv6 } from 'node:net';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { OncefleetError } from '../errors.ts';

/** Seconds whose requests may come at once, after a pause. */
const BURST_S = 5;
const MAX_CALLERS = 20_000;
/** What a caller whose streams are all taken waits, in seconds. */
const STREAM_RETRY_S = 5;

interface RequestLimitOptions {
  /** 0: any number. */
  requestsPerSecond?: number | undefined;
  /** 0: any number. */
  streamsPerCaller?: number | undefined;
}

export class RequestLimits {
  readonly #perRequestMs: number;
  readonly #streams: number;
  /** When a caller's requests so far would be done with, at the allowed pace (GCRA); in milliseconds. */
  readonly #doneAt = new Map<string, number>();
  readonly #open = new Map<string, number>();

  constructor({ requestsPerSecond = 0, streamsPerCaller = 0 }: RequestLimitOptions) {
    this.#perRequestMs = requestsPerSecond === 0 ? 0 : 1_000 / requestsPerSecond;
    this.#streams = streamsPerCaller;
  }

  /** Counts a request. @throws OncefleetError TOO_MANY_REQUESTS with `Retry-After`; it is not counted then */
  count({ caller }: FastifyRequest, reply: FastifyReply): void {
    if (this.#perRequestMs === 0) return;
    const now = performance.now();
    const doneAt = Math.max(this.#doneAt.get(caller) ?? 0, now) + this.#perRequestMs;
    const waitMs = doneAt - now - BURST_S * 1_000;
    if (waitMs > 0) throw refusal(reply, Math.ceil(waitMs / 1_000), 'Too many requests came from this caller');
    if (this.#doneAt.size >= MAX_CALLERS && !this.#doneAt.has(caller)) {
      const [oldest] = this.#doneAt.keys();
      this.#doneAt.delete(oldest as string);
    }
    this.#doneAt.set(caller, doneAt);
  }

  /**
   * Takes places for the streams of a response until it is over.
   *
   * @param count how many jobs it follows: each costs the process as much as a response by itself
   * @throws OncefleetError TOO_MANY_REQUESTS
   */
  openStream({ caller }: FastifyRequest, reply: FastifyReply, count: number): void {
    if (this.#streams === 0) return;
    const open = this.#open.get(caller) ?? 0;
    if (open + count > this.#streams)
      throw refusal(reply, STREAM_RETRY_S, `This caller has ${open} streams open, and may have ${this.#streams}`);
    this.#open.set(caller, open + count);
    reply.raw.once('close', () => {
      const left = (this.#open.get(caller) ?? count) - count;
      if (left === 0) this.#open.delete(caller);
      else this.#open.set(caller, left);
    });
  }
}

/** A client of IPv6 has a whole network of addresses. */
export function addressCaller(ip: string): string {
  if (!isIPv6(ip) || ip.startsWith('::ffff:')) return `address ${ip}`;
  const [head = '', tail = ''] = ip.split('::', 2);
  const before = head === '' ? [] : head.split(':');
  const after = tail === '' ? [] : tail.split(':');
  const middle = ip.includes('::') ? Array<string>(8 - before.length - after.length).fill('0') : [];
  return `network ${[...before, ...middle, ...after].slice(0, 4).join(':')}`;
}

function refusal(reply: FastifyReply, retryAfterS: number, message: string): OncefleetError {
  reply.header('retry-after', retryAfterS);
  return new OncefleetError('TOO_MANY_REQUESTS', `${message}; wait as long as Retry-After says`);
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Who is counted for it: its address, until its token is known. */
    caller: string;
  }
}
