/** The kinds of hostile request: what each connection sends, and whether anything of the answers is read. */
import { textOf } from './jobs.ts';

const MIB = 1024 * 1024;

/** What a kind finds there when it begins. */
export interface Stage {
  token: string;
  /** A finished job with an input of a MiB. */
  largeInput: string;
  /** Its events are as large as events may nearly be. */
  largeEvents: string;
  /** Fifty finished jobs with large events. */
  many: readonly string[];
}

export interface Kind {
  name: string;
  /** Requests, and how many of them a connection sends one behind the other. */
  requests: number;
  pipelined: number;
  /** Connections at once. */
  connections: number;
  /** Its clients read nothing until they leave. */
  unread: boolean;
  bytes(stage: Stage, n: number): string;
}

const head = (stage: Stage, line: string, ...headers: string[]) =>
  [`${line} HTTP/1.1`, 'host: localhost', `authorization: Bearer ${stage.token}`, ...headers, '', ''].join('\r\n');
const post = (stage: Stage, path: string, body: string, length = Buffer.byteLength(body)) =>
  `${head(stage, `POST ${path}`, 'content-type: application/json', `content-length: ${length}`)}${body}`;

const WRONG_ITEMS = `{"items":[${'"x",'.repeat(245_000)}"x"]}`;
const UNKNOWN_KEYS = `{"items":[],${Array.from({ length: 90_000 }, (_, n) => `"${n}":1`).join(',')}}`;
/** More objects than bytes. */
const MANY_OBJECTS = `{"items":[${'[],'.repeat(320_000)}[]]}`;
const HALF_BODY = `{"events":1,"length":1,"text":"${textOf(MIB / 2)}`;

const HOSTILE: readonly ((stage: Stage) => string)[] = [
  (s) => head(s, 'GET /v1/jobs?cursor=%00%ff'),
  (s) => head(s, `GET /v1/jobs?cursor=${'A'.repeat(8_000)}`),
  (s) => head(s, `GET /v1/jobs/${s.largeEvents}/events?after=99999999999999999999`),
  (s) => head(s, `GET /v1/jobs/${s.largeEvents}/events?after=-9`, 'last-event-id: 1-x'),
  (s) => head(s, `GET /v1/events?streams=${`${s.largeEvents},`.repeat(100)}`),
  (s) => head(s, 'GET /v1/jobs?limit=100&name=%F0%9F%92%A9', `x-request-id: ${'\u00e9'.repeat(500)}`),
  (s) => head(s, 'GET /v1/jobs', ...Array.from({ length: 60 }, (_, n) => `x-h${n}: ${'y'.repeat(200)}`)),
  (s) => head(s, 'GET /v1/jobs', ...Array.from({ length: 3_000 }, (_, n) => `h${n}: y`)),
  (s) => head(s, 'GET /v1/jobs').replace(s.token, 'a-token-that-nobody-has'),
  (s) => head(s, 'GET /v1/jobs').replace(`Bearer ${s.token}`, `Bearer ${'x'.repeat(8_000)}`),
  (s) => head(s, 'PATCH /v1/jobs/%zz/..%2f..'),
  (s) => post(s, '/v1/jobs/count', '{"items":[1e400]}'),
  (s) => post(s, '/v1/jobs/count', `{"items":${'['.repeat(5_000)}${']'.repeat(5_000)}}`),
  (s) => post(s, '/v1/jobs/say', '{"__proto__":{"events":1}}'),
  (s) => post(s, `/v1/jobs/${'n'.repeat(2_000)}`, '{}'),
  (s) => post(s, '/v1/jobs/redrive', '{"limit":-1,"name":{}}'),
  () => 'GET / HTTP/9.9\r\n\r\n',
  () => '\u0000\u0001\u0002 nonsense\r\n\r\n',
];

export const KINDS: readonly Kind[] = [
  {
    name: '/openapi.json, pipelined, no token, unread',
    requests: 4_000,
    pipelined: 400,
    connections: 10,
    unread: true,
    bytes: () => 'GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n',
  },
  {
    name: 'pages of 100 jobs, pipelined, unread',
    requests: 2_000,
    pipelined: 40,
    connections: 50,
    unread: true,
    bytes: (stage) => head(stage, 'GET /v1/jobs?limit=100'),
  },
  {
    name: 'single jobs with inputs of 1 MiB, unread',
    requests: 2_000,
    pipelined: 10,
    connections: 200,
    unread: true,
    bytes: (stage) => head(stage, `GET /v1/jobs/${stage.largeInput}`),
  },
  {
    name: 'JSON pages of events of 3.7 MiB, unread',
    requests: 1_000,
    pipelined: 5,
    connections: 200,
    unread: true,
    bytes: (stage) => head(stage, `GET /v1/jobs/${stage.largeEvents}/events?limit=1000`),
  },
  {
    name: 'streams of events of 3.7 MiB, unread',
    requests: 1_000,
    pipelined: 1,
    connections: 250,
    unread: true,
    bytes: (stage) => head(stage, `GET /v1/jobs/${stage.largeEvents}/events`, 'accept: text/event-stream'),
  },
  {
    name: '50 streams in a request, unread',
    requests: 200,
    pipelined: 1,
    connections: 100,
    unread: true,
    bytes: (stage) => head(stage, `GET /v1/events?streams=${stage.many.join(',')}`, 'accept: text/event-stream'),
  },
  {
    name: '0.94 MiB of wrong items',
    requests: 300,
    pipelined: 1,
    connections: 20,
    unread: false,
    bytes: (stage) => post(stage, '/v1/jobs/count', WRONG_ITEMS),
  },
  {
    name: '90,000 unknown keys',
    requests: 300,
    pipelined: 1,
    connections: 20,
    unread: false,
    bytes: (stage) => post(stage, '/v1/jobs/count', UNKNOWN_KEYS),
  },
  {
    name: '320,000 objects in 0.94 MiB',
    requests: 200,
    pipelined: 1,
    connections: 20,
    unread: false,
    bytes: (stage) => post(stage, '/v1/jobs/count', MANY_OBJECTS),
  },
  {
    name: 'half of a body',
    requests: 1_000,
    pipelined: 1,
    connections: 250,
    unread: true,
    bytes: (stage) => post(stage, '/v1/jobs/say', HALF_BODY, MIB),
  },
  {
    name: 'headers, cursors, paths, tokens and bodies of every wrong kind',
    requests: 8_000,
    pipelined: 1,
    connections: 20,
    unread: false,
    bytes: (stage, n) => (HOSTILE[n % HOSTILE.length] as (typeof HOSTILE)[0])(stage),
  },
];
