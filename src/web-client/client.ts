/**
 * The client of the HTTP API for browsers and Node (`oncefleet/client`): enqueue, follow, result, cancel.
 *
 * Imports nothing at run time. A request that got no answer, or a 429, 502, 503 or 504, is sent again as it was: an
 * enqueue always has a key, so that it makes one job however often it is sent.
 */
import type { AnyJobDefinition, JobDefinition } from '../jobs/define-job.ts';
import type { JobEvent, SystemEvent } from '../journal/event.ts';
import { type Frame, readFrames } from './frames.ts';

/** Definitions by the names of their jobs: `typeof import('./jobs.ts')`, or `{ 'send-mail': typeof sendMail }`. */
export type JobTypes = Record<string, AnyJobDefinition>;

type InputOf<D> = D extends JobDefinition<infer _I, infer _O, infer _E, infer In> ? In : never;
type OutputOf<D> = D extends JobDefinition<infer _I, infer O, infer _E, infer _In> ? O : never;
type EventOf<D> = D extends JobDefinition<infer _I, infer _O, infer E, infer _In> ? E : never;

export interface ClientOptions {
  /** Of the web process, without `/v1`. */
  url: string | URL;
  /** A token of the API, or what gives one; asked for each request. A browser should have tickets, which open one stream. */
  token?: string | (() => string | Promise<string>);
  /** In place of the global one. */
  fetch?: typeof fetch;
  /** Milliseconds for which a request without an answer is sent again; default 30,000. Streams connect again without an end. */
  retryMs?: number;
  /** Milliseconds after which a stream of which nothing comes connects again; default 45,000, three keepalives of the server. */
  idleMs?: number;
}

export interface EnqueueOptions {
  /** 1 to 255 bytes: the same key and input is the same job. Default a random one, for the retries of this call alone. */
  key?: string;
  delayMs?: number;
  priority?: number;
  signal?: AbortSignal;
}

export interface FollowOptions {
  /** The `cursor` of the last event that was seen; default the beginning. */
  after?: string;
  /** In place of the token: opens this job's stream alone. */
  ticket?: string;
  /** Leaves the stream; the job goes its way. */
  signal?: AbortSignal;
}

/** What is known of a job after an enqueue. `D`: its definition. */
export interface ClientJob<D = AnyJobDefinition> {
  id: string;
  /** Of a type alone: what `result` and `follow` of this job give. */
  readonly definition?: D;
  outcome: 'created' | 'attached' | 'replayed';
  status: string;
}

/** An event in its place. It folds with `oncefleet/fold`. */
export interface ClientEvent<E extends JobEvent = JobEvent> {
  /** That of the event before, of a `rewind`. */
  seq: number;
  /** What to follow after. */
  cursor: string;
  event: E | SystemEvent;
}

/** An answer of the server that is no success, or an outcome of a job that is none. */
export class ClientError extends Error {
  override readonly name = 'ClientError';
  /** One of docs/reference/errors.md; `HTTP_ERROR` where a proxy has answered. */
  readonly code: string;
  /** Of the answer; 0 where the job ended so. */
  readonly status: number;
  /** The problem as it was answered, or the stored error of the job. */
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: string, message: string, status: number, details: Record<string, unknown> = {}) {
    super(message);
    this.code = code;
    this.status = status;
    this.details = details;
  }
}

type Id<D> = string | ClientJob<D>;

export interface Client<Jobs extends JobTypes> {
  /** @throws ClientError INPUT_INVALID, KEY_MISMATCH, … */
  enqueue<N extends keyof Jobs & string>(
    name: N,
    input: InputOf<Jobs[N]>,
    options?: EnqueueOptions,
  ): Promise<ClientJob<Jobs[N]>>;
  /**
   * Its events from the cursor on, each once, until the last; connects again by itself, however often that takes.
   *
   * @throws ClientError JOB_NOT_FOUND, STREAM_EXPIRED, …; the reason of `signal`
   */
  follow<D = AnyJobDefinition>(
    job: Id<D>,
    options?: FollowOptions,
  ): AsyncGenerator<ClientEvent<EventOf<D> extends JobEvent ? EventOf<D> : JobEvent>, void, undefined>;
  /** Waits for its result. @throws ClientError the code it failed with, CANCELLED, JOB_NOT_FOUND; the reason of `signal` */
  result<D = AnyJobDefinition>(job: Id<D>, options?: { signal?: AbortSignal }): Promise<OutputOf<D>>;
  /** The job as it is: status, attempts, input, result or error. */
  get(job: Id<unknown>, options?: { signal?: AbortSignal }): Promise<Record<string, unknown>>;
  /** Again is the same as once. */
  cancel(job: Id<unknown>, options?: { signal?: AbortSignal }): Promise<'cancelled' | 'requested' | 'finished'>;
  /** For a browser to follow this job with, and nothing else. @param options.ttl seconds, 10 to 3,600; default 300 */
  ticket(
    job: Id<unknown>,
    options?: { ttl?: number; signal?: AbortSignal },
  ): Promise<{ ticket: string; expiresAt: string }>;
}

/** ms: before the second try, and the most before a later one. */
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 15_000;
const TERMINAL = ['end', 'error', 'cancelled'];
/** Not of the request: the server, a proxy or the way there cannot at the moment. */
const PASSING = [429, 502, 503, 504];

interface Call {
  method?: string;
  query?: Record<string, string | number | undefined>;
  body?: unknown;
  headers?: Record<string, string>;
  ticket?: string | undefined;
  signal?: AbortSignal | undefined;
}

/** The way to the server: requests with their token, and another try. */
class Requests {
  readonly #options: ClientOptions;
  readonly #base: string;

  constructor(options: ClientOptions) {
    this.#options = options;
    this.#base = `${String(options.url).replace(/\/+$/, '')}/v1/jobs/`;
  }

  async send(path: string, { method = 'GET', query = {}, body, headers, ticket, signal }: Call): Promise<Response> {
    const { token, fetch: ask = fetch } = this.#options;
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries({ ...query, ticket }))
      if (value !== undefined) parameters.set(name, String(value));
    const text = parameters.size > 0 ? `?${parameters}` : '';
    const given = ticket === undefined ? await (typeof token === 'function' ? token() : token) : undefined;
    return ask(this.#base + path + text, {
      method,
      headers: {
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(given === undefined ? {} : { authorization: `Bearer ${given}` }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      ...(signal === undefined ? {} : { signal }),
    });
  }

  /** Sent again until there is an answer. */
  async call(path: string, given: Call): Promise<Record<string, unknown>> {
    const until = Date.now() + (this.#options.retryMs ?? 30_000);
    for (let tries = 0; ; tries++) {
      const sent = await this.send(path, given)
        .then(readAnswer)
        .catch((error: unknown) => error as Error);
      given.signal?.throwIfAborted();
      if (!(sent instanceof Error)) return sent;
      const pause = pauseAfter(sent, tries);
      if (pause === undefined || Date.now() + pause > until) throw sent;
      await sleep(pause, given.signal);
    }
  }

  /** One connection to a stream: its frames, until it ends; `over` where the cursor is at the end. */
  async *frames(path: string, call: Call): AsyncGenerator<Frame | 'over', void, undefined> {
    const { signal } = call;
    const leave = new AbortController();
    const onAbort = () => leave.abort(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    let quiet: ReturnType<typeof setTimeout> | undefined;
    const heard = () => {
      clearTimeout(quiet);
      quiet = setTimeout(() => leave.abort(), this.#options.idleMs ?? 45_000);
    };
    try {
      heard();
      const answer = await this.send(path, { ...call, signal: leave.signal });
      if (answer.status === 204) return yield 'over';
      if (!answer.ok || answer.body === null) await readAnswer(answer);
      yield* readFrames(answer.body as ReadableStream<Uint8Array>, heard);
    } finally {
      clearTimeout(quiet);
      signal?.removeEventListener('abort', onAbort);
      leave.abort();
    }
  }
}

/** @typeParam Jobs definitions by name; none: any name and input */
export function createClient<Jobs extends JobTypes = JobTypes>(options: ClientOptions): Client<Jobs> {
  const requests = new Requests(options);
  const post = (path: string, call: Call) => requests.call(path, { ...call, method: 'POST' });
  return {
    enqueue: (name: string, input: unknown, { key = randomKey(), delayMs, priority, signal }: EnqueueOptions = {}) =>
      post(encodeURIComponent(name), {
        body: input,
        query: { delayMs, priority },
        headers: { 'idempotency-key': encodeKey(key) },
        signal,
      }),
    follow: (job: Id<unknown>, given: FollowOptions = {}) => follow(requests, job, given),
    result: (job: Id<unknown>, given: Signal = {}) => result(requests, job, given),
    get: (job: Id<unknown>, { signal }: Signal = {}) => requests.call(idOf(job), { signal }),
    cancel: async (job: Id<unknown>, { signal }: Signal = {}) =>
      (await post(`${idOf(job)}/cancel`, { signal }))['outcome'],
    ticket: (job: Id<unknown>, { ttl, signal }: Signal & { ttl?: number } = {}) =>
      post(`${idOf(job)}/ticket`, { query: { ttl }, signal }),
  } as unknown as Client<Jobs>;
}

interface Signal {
  signal?: AbortSignal;
}

async function* follow(
  requests: Requests,
  job: Id<unknown>,
  { after, ticket, signal }: FollowOptions,
): AsyncGenerator<ClientEvent, void, undefined> {
  let [cursor, seq, last, failures] = [after ?? '', -1, '', 0];
  for (;;) {
    let pause = FIRST_PAUSE_MS;
    try {
      signal?.throwIfAborted();
      const query = { after: cursor === '' ? undefined : cursor };
      const headers = { accept: 'text/event-stream' };
      const frames = requests.frames(`${idOf(job)}/events`, { query, headers, ticket, signal });
      for await (const frame of frames) {
        if (frame === 'over') return;
        if (frame.retry !== undefined) pause = frame.retry;
        if (frame.data === undefined) continue;
        failures = 0;
        if (frame.id !== undefined) cursor = frame.id;
        seq = seqOf(frame) ?? seq;
        last = frame.event ?? '';
        yield { seq, cursor, event: JSON.parse(frame.data) as JobEvent };
      }
      // In the middle there may be one as well: a failed job was redriven.
      if (TERMINAL.includes(last)) return;
    } catch (error) {
      signal?.throwIfAborted();
      const wanted = pauseAfter(error as Error, failures);
      if (wanted === undefined) throw error;
      pause = Math.max(pause, wanted);
      failures++;
    }
    await sleep(pause * (0.75 + Math.random() / 2), signal);
  }
}

async function result(requests: Requests, job: Id<unknown>, { signal }: Signal): Promise<unknown> {
  try {
    let event: SystemEvent | JobEvent | undefined;
    for await (const one of follow(requests, job, signal === undefined ? {} : { signal })) event = one.event;
    if (event !== undefined) return outcomeOf(event);
  } catch (error) {
    // Its events are past their retention; the outcome may be kept for longer.
    if ((error as ClientError).code !== 'STREAM_EXPIRED') throw error;
  }
  const { status, result: value, error } = await requests.call(idOf(job), { signal });
  const type = status === 'completed' ? 'end' : status === 'cancelled' ? 'cancelled' : 'error';
  return outcomeOf({ type, result: value, error } as JobEvent);
}

function idOf(job: Id<unknown>): string {
  return encodeURIComponent(typeof job === 'string' ? job : job.id);
}

/** `<seq>`, or `<fence>-<seq>`. */
function seqOf({ id }: Frame): number | undefined {
  return id === undefined ? undefined : Number(id.slice(id.lastIndexOf('-') + 1));
}

function outcomeOf(event: JobEvent | SystemEvent): unknown {
  const { type, result, error } = event as {
    type: string;
    result?: unknown;
    error?: { code: string; message: string };
  };
  if (type === 'end') return result;
  if (type === 'cancelled') throw new ClientError('CANCELLED', 'The job was cancelled', 0);
  throw new ClientError(error?.code ?? 'INTERNAL', error?.message ?? 'The job failed', 0, { ...error });
}

/** @throws ClientError it is no success */
async function readAnswer(answer: Response): Promise<Record<string, unknown>> {
  const body = (await answer.json().catch(() => ({}))) as Record<string, unknown>;
  if (answer.ok) return body;
  const { code = 'HTTP_ERROR', detail = `The server answered ${answer.status}` } = body;
  throw Object.assign(new ClientError(String(code), String(detail), answer.status, body), {
    after: Number(answer.headers.get('retry-after') ?? 0) * 1_000,
  });
}

/** ms; `undefined`: the same request would be answered alike. */
function pauseAfter(error: Error & { after?: number }, tries: number): number | undefined {
  if (error instanceof ClientError && !PASSING.includes(error.status)) return undefined;
  const most = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** tries);
  return Math.max(error.after ?? 0, most * (0.5 + Math.random() / 2));
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    if (signal?.aborted === true) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/** `crypto.randomUUID` is for pages of secure origins alone. */
function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** A header holds bytes: those of UTF-8, one a character. */
function encodeKey(key: string): string {
  return String.fromCharCode(...new TextEncoder().encode(key));
}
