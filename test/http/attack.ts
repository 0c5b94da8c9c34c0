/** The stage of the attack suite: a fleet with two tenants, what it logs, and requests as nobody would make them by mistake. */
import { randomInt } from 'node:crypto';
import { Agent, type IncomingHttpHeaders, request } from 'node:http';
import fc from 'fast-check';
import type { FastifyInstance } from 'fastify';
import { pino } from 'pino';
import { z } from 'zod';
import { createApp } from '../../src/http/app.ts';
import { createBuiltinJobs } from '../../src/jobs/builtin-jobs.ts';
import { defineJob } from '../../src/jobs/define-job.ts';
import { createFleet, type Fleet } from '../../src/workers/fleet.ts';
import { createTestDatabase, testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { listenLocally } from './requests.ts';

/** Replays a run: what is sent is made of it. Ids differ. */
export const SEED = Number(process.env.ATTACK_SEED ?? randomInt(2 ** 31));

export type Tenant = 'a' | 'b';
export const TOKENS: Record<Tenant, string> = { a: 'TOKEN-MARK-of-tenant-a', b: 'TOKEN-MARK-of-tenant-b' };
/** In every input of a tenant: it is in no log, and in no answer to another. */
export const MARKS: Record<Tenant, string> = { a: 'PAYLOAD-MARK-A', b: 'PAYLOAD-MARK-B' };

export const BODY_LIMIT_BYTES = 256 * 1024;

const anything = defineJob({
  name: 'anything',
  input: z.unknown(),
  async run(input, ctx) {
    await ctx.emit({ type: 'got', value: input });
    return input ?? null;
  },
});

const strict = defineJob({
  name: 'strict',
  input: z.strictObject({
    text: z.string(),
    n: z.number().int().optional(),
    items: z.array(z.object({ id: z.string().max(20), flags: z.record(z.string(), z.boolean()) })).optional(),
  }),
  async run({ text }, ctx) {
    for (const word of text.slice(0, 1_000).split(' ')) await ctx.emit({ type: 'delta', text: word });
    return text;
  },
});

/** Runs once each, and says how often it did. */
export const runs = new Map<string, number>();
export const counted = defineJob({
  name: 'counted',
  input: z.object({ n: z.number(), mark: z.string() }),
  async run({ n }, ctx) {
    runs.set(ctx.jobId, (runs.get(ctx.jobId) ?? 0) + 1);
    for (let i = 0; i < 5; i++) {
      await ctx.emit({ type: 'step', i });
      await ctx.flush();
    }
    return n;
  },
});

export interface AttackStage {
  fleet: Fleet;
  app: FastifyInstance;
  port: number;
  prefix: string;
  /** Everything that fleet and app have logged. */
  log(): string;
  /** Bytes that requests hold now. */
  held(): number;
  close(): Promise<void>;
}

export async function startAttackStage(): Promise<AttackStage> {
  const database = await createTestDatabase();
  const lines: string[] = [];
  const log = pino({ level: 'trace' }, { write: (line: string) => void lines.push(line) });
  const prefix = uniquePrefix();
  const jobs = [anything, strict, counted, ...createBuiltinJobs({ model: undefined, answerPaceMs: 0 })];
  const fleet = createFleet({ databaseUrl: database.url, redisUrl: testRedisUrl(), prefix, jobs, log });
  const worker = await fleet.work();
  let held: () => number = () => Number.NaN;
  const metrics = {
    contentType: 'text/plain',
    render: async () => '',
    countStreams: () => undefined,
    countHeldBytes: (bytes: () => number) => {
      held = bytes;
    },
  };
  const tokens = new Map([
    [TOKENS.a, 'a'],
    [TOKENS.b, 'b'],
  ]);
  const app = createApp({
    client: fleet,
    log,
    metrics,
    board: false,
    limits: { headersMs: 2_000, requestMs: 4_000, bodyStallMs: 1_000, unreadMs: 2_000, drainMs: 500 },
    config: {
      tokens,
      adminToken: undefined,
      metricsToken: 'TOKEN-MARK-of-the-metrics',
      tenant: 'default',
      bodyLimitBytes: BODY_LIMIT_BYTES,
      uploadLimitBytes: BODY_LIMIT_BYTES,
      inFlightBytes: 16 * 1024 * 1024,
    },
  });
  const port = await listenLocally(app);
  return {
    fleet,
    app,
    port,
    prefix,
    log: () => lines.join(''),
    held: () => held(),
    async close() {
      await app.close();
      await worker.close();
      await fleet.close();
      await database.drop();
    },
  };
}

export interface Asked {
  method: string;
  path: string;
  headers: Record<string, string>;
  body?: string | Buffer | undefined;
}

export interface Answer {
  /** 0: the connection ended without one. */
  status: number;
  headers: IncomingHttpHeaders;
  text: string;
}

/** Longer than anything may take here; what takes longer hangs. */
const HANGS_MS = 30_000;
/** A stream that has no end yet is left after so many bytes, or this long without any. */
const STREAM_BYTES = 64 * 1024;
const STREAM_QUIET_MS = 200;

const agent = new Agent({ keepAlive: true, maxSockets: 16 });

/** @throws Error it hangs */
export function ask(port: number, { method, path, headers, body }: Asked): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const hangs = setTimeout(() => reject(new Error(`no answer: ${method} ${path.slice(0, 300)}`)), HANGS_MS);
  // Of DELETE and OPTIONS node's client sends a body as if it were the next request, unless it is told the length.
  const sized = body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) };
  const options = { host: '127.0.0.1', port, method, path, headers: { ...headers, ...sized }, agent };
  const sent = request(options, (response) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const end = () =>
      resolve({
        status: response.statusCode ?? 0,
        headers: response.headers,
        text: Buffer.concat(chunks).toString(),
      });
    const streams = response.headers['content-type']?.startsWith('text/event-stream') === true;
    let quiet = streams ? setTimeout(() => response.destroy(), STREAM_QUIET_MS) : undefined;
    response.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      length += chunk.length;
      clearTimeout(quiet);
      if (!streams) return;
      quiet = setTimeout(() => response.destroy(), STREAM_QUIET_MS);
      if (length > STREAM_BYTES) response.destroy();
    });
    response.on('close', end).on('error', () => {});
  });
  sent.on('error', () => resolve({ status: 0, headers: {}, text: '' }));
  sent.end(body);
  return promise.finally(() => clearTimeout(hangs));
}

export const bearer = (tenant: Tenant) => ({ authorization: `Bearer ${TOKENS[tenant]}` });
export const JSON_TYPE = { 'content-type': 'application/json' };

const enqueues = ({ method, path }: Operation) => method === 'POST' && /^\/v1\/jobs\/\{\w+\}$/.test(path);

interface Parameter {
  name: string;
  in: string;
  schema?: { enum?: unknown[]; minimum?: number; maximum?: number; type?: string };
}

export interface Operation {
  method: string;
  path: string;
  parameters: readonly Parameter[];
}

/** Every route that the document names, with every method: those that it has and those that it has not. */
export async function readOperations(port: number): Promise<{ operations: Operation[]; paths: string[] }> {
  const { text } = await ask(port, { method: 'GET', path: '/openapi.json', headers: {} });
  const document = JSON.parse(text) as { paths: Record<string, Record<string, { parameters?: Parameter[] }>> };
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { parameters = [] }]) => ({
      method: method.toUpperCase(),
      path,
      parameters,
    })),
  );
  return { operations, paths: Object.keys(document.paths) };
}

/** Ids and cursors that are there, of both tenants. */
export interface Known {
  own: readonly string[];
  foreign: readonly string[];
  cursors: readonly string[];
}

const NOBODYS_ID = '01890000-0000-7000-8000-000000000000';
const ODD_TEXTS = [
  '',
  ' ',
  '0',
  '-1',
  '1e400',
  'NaN',
  'null',
  'true',
  '[]',
  '{}',
  '%00',
  '%zz',
  '%F0%9F%92%A9',
  '..%2F..%2Fetc%2Fpasswd',
  "'%3B drop table jobs",
  '99999999999999999999',
  '1.5',
  '0x10',
  '1-2',
  '1-2-3',
  '-0',
  '__proto__',
  'constructor',
  'a'.repeat(3_000),
  'AAAA',
  'eyJpZCI6MX0',
  NOBODYS_ID,
  NOBODYS_ID.toUpperCase(),
] as const;

/** Characters that may stand in a path or in a header as they are. */
const visible = fc.string({
  unit: fc.constantFrom(...'abcXYZ019-_.~!$*(),;:@'),
  maxLength: 40,
});
const odd = fc.oneof({ weight: 3, arbitrary: fc.constantFrom(...ODD_TEXTS) }, { weight: 1, arbitrary: visible });

/** Hostile headers that node's client sends; `attack.slow.test.ts` writes the others by hand. */
const headers = fc.oneof(
  { weight: 3, arbitrary: fc.constant({}) },
  {
    weight: 2,
    arbitrary: fc.dictionary(
      fc.constantFrom(
        'idempotency-key',
        'last-event-id',
        'accept',
        'x-request-id',
        'origin',
        'if-none-match',
        'range',
        'cookie',
        'x-forwarded-for',
        'x-document-path',
        'traceparent',
        'content-encoding',
        'accept-encoding',
      ),
      fc.oneof(odd, fc.constantFrom('text/event-stream', '*/*;q=0', 'gzip', 'bytes=0-', '"quoted"', '\u00e9\u00ff')),
      { maxKeys: 4 },
    ),
  },
);

function queryOf(parameters: readonly Parameter[], known: Known) {
  const names = parameters.filter((parameter) => parameter.in === 'query');
  // A wait is as long as it says.
  const values = (name: string) =>
    name === 'wait'
      ? fc.constantFrom('0', '1', '-1', 'x', '1e9', '')
      : fc.oneof(
          odd,
          fc.constantFrom('1', '10', 'anything', 'strict', 'failed', 'completed', 'true'),
          fc.constantFrom(...known.own, ...known.foreign, ...known.cursors),
        );
  const known_ = names.map(({ name }) =>
    fc.option(
      fc.array(values(name), { minLength: 1, maxLength: 2 }).map((given) => given.map((value) => `${name}=${value}`)),
      { nil: [], freq: 2 },
    ),
  );
  const other = fc.option(
    odd.map((text) => [`unknown=${text}`]),
    { nil: [], freq: 1 },
  );
  return fc.tuple(...known_, other).map((parts) => {
    const query = parts.flat().join('&');
    return query === '' ? '' : `?${query.replace(/[^\x21-\x7e]/g, (c) => encodeURIComponent(c))}`;
  });
}

function pathOf(path: string, known: Known) {
  const parts = [...path.matchAll(/\{(\w+)\}/g)].map(([, name = '']) =>
    /id$/i.test(name)
      ? fc.oneof(fc.constantFrom(...known.own), fc.constantFrom(...known.foreign), odd)
      : fc.oneof(
          { weight: 3, arbitrary: fc.constantFrom('anything', 'strict', 'docs') },
          { weight: 1, arbitrary: fc.constantFrom('nothing', 'redrive', 'a.md', 'counted') },
          { weight: 2, arbitrary: odd },
        ),
  );
  return fc.tuple(...parts).map((values) => {
    let n = 0;
    return path.replace(/\{\w+\}/g, () => (values[n++] as string).replace(/ /g, '%20') || '%20');
  });
}

/** What a job takes, what it does not, and what is no JSON. */
function bodyOf(tenant: Tenant) {
  const text = fc
    .oneof(fc.string({ unit: 'binary', maxLength: 40 }), fc.constantFrom('', '\u0000', '\ud83d', 'x y z'))
    .map((more) => MARKS[tenant] + more);
  const json = fc.json({ maxDepth: 6 });
  const valid = fc.oneof(
    fc.record(
      {
        text,
        n: fc.integer(),
        items: fc.array(
          fc.record({ id: fc.string({ maxLength: 20 }), flags: fc.dictionary(fc.string(), fc.boolean()) }),
        ),
      },
      { requiredKeys: ['text'] },
    ),
    text.map((given) => ({ text: given.repeat(1_000) })),
    fc.anything({ maxDepth: 4, values: [fc.string({ unit: 'binary' }), fc.double(), fc.boolean(), fc.constant(null)] }),
  );
  const validText = valid.map((value) => JSON.stringify(value) ?? 'null');
  const wrong = fc.constantFrom(
    '',
    '{',
    '[1,]',
    '{"text":1}',
    `{"text":"${MARKS[tenant]}","more":1}`,
    `{"text":"${MARKS[tenant]}","n":1.5}`,
    `{"text":"${MARKS[tenant]}","n":1e400}`,
    `{"__proto__":{"text":"${MARKS[tenant]}"}}`,
    `{"text":["${MARKS[tenant]}"]}`,
    '\ufeff{}',
    'NaN',
    '{"a":1}{"a":2}',
  );
  const large = fc.constantFrom(
    () => `{"items":[${'"x",'.repeat(50_000)}"x"]}`,
    () => `{${Array.from({ length: 20_000 }, (_, n) => `"${n}":1`).join(',')},"text":"${MARKS[tenant]}"}`,
    () => `${'['.repeat(100_000)}${']'.repeat(100_000)}`,
    () => `{"text":"${MARKS[tenant].repeat(12_000)}"}`,
    () => `{"text":"${MARKS[tenant].repeat(30_000)}"}`,
    () => `[${'[],'.repeat(60_000)}[]]`,
    () =>
      `{"items":[${'{"id":"x","flags":{"a":true}},'.repeat(5_000)}{"id":"x","flags":{}}],"text":"${MARKS[tenant]}"}`,
  );
  const cut = fc
    .tuple(validText, fc.nat(), fc.constantFrom('', '"', '\\', '\u0001', '{', ']', '\ud800'))
    .map(([whole, at, other]) => {
      const place = at % (whole.length + 1);
      return whole.slice(0, place) + other + (at % 2 === 0 ? '' : whole.slice(place + 1));
    });
  return fc.oneof(
    { weight: 6, arbitrary: validText },
    { weight: 2, arbitrary: json },
    { weight: 3, arbitrary: cut },
    { weight: 2, arbitrary: wrong },
    { weight: 1, arbitrary: large.map((make) => make()) },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)) },
  );
}

const contentType = fc.oneof(
  { weight: 8, arbitrary: fc.constant('application/json') },
  {
    weight: 2,
    arbitrary: fc.constantFrom(
      'application/json; charset=utf-16',
      'text/plain',
      'application/octet-stream',
      'multipart/form-data',
      'multipart/form-data; boundary=x',
      'application/x-www-form-urlencoded',
      'nonsense',
      'application/json;;;',
    ),
  },
);

export interface Attack {
  asked: Asked;
  /** Of its token; undefined where it has none that is good. */
  tenant: Tenant | undefined;
}

/** @param tenant whose ids are `known.own` */
export function attackOf(operations: readonly Operation[], paths: readonly string[], tenant: Tenant, known: Known) {
  const token = fc.oneof(
    { weight: 8, arbitrary: fc.constant<[Tenant | undefined, Record<string, string>]>([tenant, bearer(tenant)]) },
    {
      weight: 2,
      arbitrary: fc.constantFrom<[Tenant | undefined, Record<string, string>]>(
        [undefined, {}],
        [undefined, { authorization: 'Bearer' }],
        [undefined, { authorization: `Bearer ${TOKENS[tenant]}x` }],
        [undefined, { authorization: `bearer  ${TOKENS[tenant].slice(1)}` }],
        [undefined, { authorization: `Basic ${Buffer.from(`x:${TOKENS[tenant]}`).toString('base64')}` }],
        [undefined, { authorization: `Bearer ${'TOKEN-MARK'.repeat(500)}` }],
        [undefined, { authorization: 'Bearer \u00e9TOKEN-MARK' }],
      ),
    },
  );
  const named = fc.constantFrom(...operations);
  const mistaken = fc.record({
    method: fc.constantFrom('GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS', 'PROPFIND'),
    path: fc.constantFrom(...paths, '/', '/v1', '/v1/', '/metrics', '/admin/queues', '//v1/jobs', '/v1/jobs/'),
    parameters: fc.constant<readonly Parameter[]>([]),
  });
  return fc
    .oneof(
      { weight: 5, arbitrary: named },
      // What makes most of what there is.
      { weight: 2, arbitrary: fc.constantFrom(...operations.filter(enqueues)) },
      { weight: 1, arbitrary: mistaken },
    )
    .chain(({ method, path, parameters }) =>
      fc
        .record({
          path: pathOf(path, known),
          query: fc.oneof(fc.constant(''), queryOf(parameters, known)),
          headers,
          token,
          type: contentType,
          body: method === 'GET' || method === 'HEAD' ? fc.constant(undefined) : bodyOf(tenant),
        })
        .map(
          (made): Attack => ({
            tenant: made.token[0],
            asked: {
              method,
              path: made.path + made.query,
              headers: {
                ...made.headers,
                ...made.token[1],
                ...(made.body === undefined ? {} : { 'content-type': made.type }),
              },
              body: made.body,
            },
          }),
        ),
    );
}
