import { pino } from 'pino';
import { describe, expect, it } from 'vitest';
import { OncefleetError } from '../src/errors.ts';
import { ERROR_SERIALIZERS } from '../src/log.ts';
import { Runtime } from '../src/runtime/runtime.ts';
import { insertJob, useDatabase } from './helpers/fixtures.ts';
import { testRedisUrl, uniquePrefix } from './helpers/services.ts';

const file = useDatabase();
const SECRET = 'SECRET-of-a-payload';

function logged(err: unknown): { line: string; err: Record<string, unknown> } {
  const lines: string[] = [];
  const log = pino({ serializers: ERROR_SERIALIZERS }, { write: (line: string) => void lines.push(line) });
  log.error({ err }, 'failed');
  return { line: lines.join(''), err: JSON.parse(lines[0] as string).err };
}

const failure = (statement: string, values: unknown[]) =>
  file.pool.query(statement, values).then(
    () => expect.fail('no error'),
    (error: unknown) => error,
  );

describe('an error of Postgres is logged with its code and without a value:', () => {
  it.each([
    [
      'a row that fails a check',
      `insert into oncefleet.jobs (id, tenant, name, queue, fingerprint, input, options, status)
       values (gen_random_uuid(), $1, $1, 'q', 'f', '{}', '{}', 'nothing')`,
      '23514',
    ],
    [
      'a row without a value',
      `insert into oncefleet.jobs (id, tenant, name, fingerprint, input, options) values (gen_random_uuid(), $1, $1, 'f', '{}', '{}')`,
      '23502',
    ],
    ['what is no JSON', 'select $1::json', '22P02'],
    ['what is no uuid', 'select $1::uuid', '22P02'],
    ['what is no number', 'select $1::int', '22P02'],
    ['what is no time', 'select $1::timestamptz', '22007'],
    [
      'a function that quotes',
      `do $$ begin perform 1 / 0; exception when others then raise exception 'it failed' using detail = '${SECRET}', hint = '${SECRET}'; end $$`,
      'P0001',
    ],
  ])('%s', async (_what, statement, code) => {
    const error = await failure(statement, statement.includes('$1') ? [SECRET] : []);
    const { line, err } = logged(new Error('around it', { cause: error }));
    expect(err['cause']).toMatchObject({ code, severity: 'ERROR', stack: expect.any(String) });
    expect(line).not.toContain('SECRET');
    expect(logged(error).line).not.toContain('SECRET');
  });

  it('a key that is taken', async () => {
    const id = await insertJob(file.db, { key: SECRET });
    const error = await failure(
      `insert into oncefleet.jobs (id, tenant, name, queue, fingerprint, input, options, idempotency_key) select id, tenant, name, queue, fingerprint, input, options, idempotency_key from oncefleet.jobs where id = $1`,
      [id],
    );
    expect(logged(error)).toMatchObject({ err: { code: '23505', table: 'jobs' } });
    expect(logged(error).line).not.toContain('SECRET');
  });
});

describe('an error of anybody else is logged without what hangs on it:', () => {
  const carrying = (error: Error, more: object) => Object.assign(error, more);
  it.each([
    ['parameters of a statement', carrying(new Error('x'), { query: SECRET, parameters: [SECRET], sql: SECRET })],
    [
      'a request with its headers',
      carrying(new Error('x'), { config: { headers: { authorization: SECRET } }, response: { data: SECRET } }),
    ],
    [
      'what JSON.parse could not read',
      (() => {
        try {
          return JSON.parse(`{"a":${SECRET}`);
        } catch (error) {
          return error;
        }
      })(),
    ],
    [
      'causes',
      new Error('x', {
        cause: carrying(new Error('y', { cause: carrying(new Error('z'), { data: SECRET }) }), { where: SECRET }),
      }),
    ],
    ['an aggregate', new AggregateError([carrying(new Error('x'), { detail: SECRET })], 'all failed')],
    ['details that are not ours', carrying(new Error('x'), { details: { body: SECRET } })],
  ])('%s', (_what, error) => {
    expect(logged(error).line).not.toContain('SECRET');
    expect(logged(error).err).toMatchObject({
      type: expect.any(String),
      message: expect.any(String),
      stack: expect.any(String),
    });
  });

  it('but a code, details of ours and the causes are there', () => {
    const error = new OncefleetError('JOB_NOT_FOUND', 'No job', {
      details: { jobId: '1' },
      cause: Object.assign(new Error('why'), { code: 'ECONNRESET' }),
    });
    expect(logged(error).err).toMatchObject({
      type: 'OncefleetError',
      code: 'JOB_NOT_FOUND',
      details: { jobId: '1' },
      cause: { message: 'why', code: 'ECONNRESET' },
    });
    expect(logged(undefined).line).not.toContain('"err"');
    expect(logged('text').err).toBe('text');
  });

  it('an endless chain of causes ends', () => {
    const error = new Error('x');
    error.cause = error;
    expect(logged(error).line.length).toBeLessThan(20_000);
  });
});

it('the log of a fleet leaves it out, whoever made the logger', async () => {
  const lines: string[] = [];
  const log = pino({}, { write: (line: string) => void lines.push(line) });
  const runtime = new Runtime({ databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: uniquePrefix(), log });
  runtime.log
    .child({ jobId: '1' })
    .warn({ err: Object.assign(new Error('x'), { detail: SECRET, code: '23514' }) }, 'failed');
  await runtime.close();
  expect(lines.join('')).toContain('23514');
  expect(lines.join('')).not.toContain('SECRET');
});
