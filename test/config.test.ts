import { describe, expect, it } from 'vitest';
import { CONFIG_VARIABLES, loadConfig } from '../src/config.ts';
import type { InputInvalidError } from '../src/errors.ts';

const REQUIRED = { DATABASE_URL: 'postgres://localhost/x', REDIS_URL: 'redis://localhost' };

function problems(env: Record<string, string | undefined>): string[] {
  try {
    loadConfig(env);
  } catch (error) {
    expect(error).toMatchObject({ code: 'CONFIG_INVALID' });
    return (error as InputInvalidError).issues.map((issue) => `${issue.path}: ${issue.message}`);
  }
  return [];
}

describe('the configuration', () => {
  it('has a default for everything but the two servers, and is frozen', () => {
    const config = loadConfig(REQUIRED);
    expect(config).toMatchObject({
      leaseTtlMs: 60_000,
      heartbeatMs: 20_000,
      maxCrashes: 5,
      resultTtlMs: 86_400_000,
      port: 3_000,
      prefix: 'oncefleet',
    });
    expect(Object.isFrozen(config)).toBe(true);
  });

  it('reports every problem at once, with the variable’s name', () => {
    const found = problems({
      DATABASE_URL: 'mysql://x',
      PORT: '70000',
      LOG_LEVEL: 'loud',
      ONCEFLEET_TOKENS: 'acme:short',
    });
    expect(found.map((problem) => problem.split(':')[0])).toEqual([
      'DATABASE_URL',
      'REDIS_URL',
      'ONCEFLEET_TOKENS',
      'PORT',
      'LOG_LEVEL',
    ]);
    expect(found[1]).toBe('REDIS_URL: is required');
  });

  it('takes blanks for unset', () => {
    expect(loadConfig({ ...REQUIRED, PORT: ' ', ONCEFLEET_TOKENS: '' })).toMatchObject({
      port: 3_000,
      tokens: undefined,
    });
    expect(problems({ ...REQUIRED, DATABASE_URL: '  ' })).toEqual(['DATABASE_URL: is required']);
  });

  it('suggests the setting a misspelt name means', () => {
    expect(problems({ ...REQUIRED, ONCEFLEET_CONCURENCY: '5' })).toEqual([
      'ONCEFLEET_CONCURENCY: is not a setting; did you mean ONCEFLEET_CONCURRENCY?',
    ]);
  });

  it('takes a third of the TTL for a heartbeat unless told', () => {
    expect(loadConfig({ ...REQUIRED, ONCEFLEET_LEASE_TTL_MS: '30000' }).heartbeatMs).toBe(10_000);
  });

  it('wants a heartbeat to fit twice into its TTL', () => {
    expect(problems({ ...REQUIRED, ONCEFLEET_LEASE_TTL_MS: '10000', ONCEFLEET_HEARTBEAT_MS: '5001' })[0]).toContain(
      'ONCEFLEET_HEARTBEAT_MS: must fit twice',
    );
    expect(problems({ ...REQUIRED, ONCEFLEET_LEASE_TTL_MS: '10000', ONCEFLEET_HEARTBEAT_MS: '5000' })).toEqual([]);
  });

  it('wants a model with its server, and a server with its model', () => {
    expect(problems({ ...REQUIRED, OPENAI_MODEL: 'm' })[0]).toContain('OPENAI_BASE_URL: is required');
    expect(problems({ ...REQUIRED, OPENAI_BASE_URL: 'http://localhost:1/v1' })[0]).toContain(
      'OPENAI_MODEL: is required',
    );
  });

  it('reads tenants’ tokens', () => {
    const { tokens } = loadConfig({ ...REQUIRED, ONCEFLEET_TOKENS: 'acme:0123456789abcdef, other:fedcba9876543210' });
    expect([...(tokens ?? [])]).toEqual([
      ['0123456789abcdef', 'acme'],
      ['fedcba9876543210', 'other'],
    ]);
  });

  it.each(['abc', '1', '501', '2.5', '-3', '1e2', '99999999999999999999'])(
    'names the bounds of a number when it is %s',
    (text) => {
      expect(problems({ ...REQUIRED, DATABASE_POOL_SIZE: text })).toEqual([
        'DATABASE_POOL_SIZE: expected a whole number from 2 to 500',
      ]);
    },
  );

  it('names the bounds of every number', () => {
    const numbers = Object.entries(CONFIG_VARIABLES).flatMap(([name, { schema }]) =>
      typeof schema.safeParse(undefined).data === 'number' ? [name] : [],
    );
    expect(numbers.length).toBeGreaterThan(10);
    for (const name of numbers) {
      const bounds = expect.stringMatching(
        new RegExp(`^${name}: expected a whole number from \\d+ to \\d+(, or never)?$`),
      );
      expect(problems({ ...REQUIRED, [name]: 'NaN' })).toEqual([bounds]);
    }
  });

  it('refuses one token for two tenants, without repeating it', () => {
    const [token, other] = ['0123456789abcdef', 'fedcba9876543210'];
    const found = problems({ ...REQUIRED, ONCEFLEET_TOKENS: `acme:${token},third:${other},other:${token}` });
    expect(found).toEqual(['ONCEFLEET_TOKENS: acme and other have the same token; each tenant needs its own']);
    expect(problems({ ...REQUIRED, ONCEFLEET_TOKENS: `acme:${token},acme:${token}` })).toEqual([
      'ONCEFLEET_TOKENS: acme has a token twice',
    ]);
  });

  it('never repeats a secret in a problem', () => {
    const found = problems({
      ...REQUIRED,
      ONCEFLEET_TOKENS: 'acme:hunter2',
      DATABASE_URL: 'mysql://u:hunter2@h/x',
      ONCEFLEET_ADMIN_TOKEN: 'hunter2',
    });
    expect(found).toHaveLength(3);
    expect(found.join()).not.toContain('hunter2');
  });
});

describe('a retention', () => {
  it('is a number of milliseconds, or never', () => {
    expect(loadConfig({ ...REQUIRED, ONCEFLEET_JOB_RETENTION_MS: 'never' }).jobRetentionMs).toBe(
      Number.POSITIVE_INFINITY,
    );
    expect(loadConfig({ ...REQUIRED, ONCEFLEET_STREAM_RETENTION_MS: '86400000' }).streamRetentionMs).toBe(86_400_000);
    expect(loadConfig(REQUIRED)).toMatchObject({ streamRetentionMs: 604_800_000, jobRetentionMs: 2_592_000_000 });
  });

  it.each(['0', '7d', '-1', 'Infinity'])('is not %j', (text) => {
    expect(problems({ ...REQUIRED, ONCEFLEET_JOB_RETENTION_MS: text })).toEqual([
      'ONCEFLEET_JOB_RETENTION_MS: expected a whole number from 1000 to 3155760000000, or never',
    ]);
  });
});
