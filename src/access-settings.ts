/** The settings that say who may call a process, and what must hold between them. */
import { isIP } from 'node:net';
import { z } from 'zod';
import type { Issue } from './errors.ts';
import { isLoopback, number, SHORT_NAME } from './options.ts';

/** What `Authorization: Bearer` can carry. */
const SENDABLE = /^[\x21-\x7e]+$/;

/** Origins of web pages, or `*`. */
export const origins = z.string().transform((text, ctx) => {
  const list = text.split(',').map((one) => one.trim());
  for (const one of list) {
    if (one === '*' || URL.parse(one)?.origin === one) continue;
    ctx.addIssue({
      code: 'custom',
      message: `expected origins (https://app.example, no path) with commas between, or *; not ${one.slice(0, 100)}`,
    });
  }
  return list;
});

/** Addresses and networks (`10.0.0.0/8`); `loopback` stands for those of this machine. */
const proxies = z.string().transform((text, ctx) => {
  const list = text.split(',').map((one) => one.trim());
  for (const one of list) {
    const [address = '', bits, more] = one.split('/');
    const size = isIP(address) === 6 ? 128 : 32;
    const valid = isIP(address) !== 0 && more === undefined && (bits === undefined || isBits(bits, size));
    if (one === 'loopback' || valid) continue;
    ctx.addIssue({
      code: 'custom',
      message: `expected addresses or networks of proxies (10.0.0.7, 10.0.0.0/8, loopback) with commas between, not ${one.slice(0, 100)}`,
    });
  }
  return list;
});

/** 0 would be every address there is: then whoever asks says where it comes from. */
function isBits(text: string, size: number): boolean {
  return /^\d{1,3}$/.test(text) && Number(text) >= 1 && Number(text) <= size;
}

/** One token that is sent as `Authorization: Bearer`. */
export const bearerToken = z
  .string()
  .refine(
    (text) => text.length >= 16 && SENDABLE.test(text),
    'expected at least 16 characters that a header can carry (visible ASCII, no blanks)',
  );

/** `tenant:token,tenant:token`. */
export const tokens = z.string().transform((text, ctx) => {
  const byToken = new Map<string, string>();
  for (const pair of text.split(',')) {
    const at = pair.indexOf(':');
    const tenant = pair.slice(0, at).trim();
    const token = pair.slice(at + 1).trim();
    if (at < 1 || !SHORT_NAME.test(tenant) || token.length < 16 || !SENDABLE.test(token)) {
      ctx.addIssue({
        code: 'custom',
        message:
          'expected tenant:token pairs with commas between; a tenant is 1 to 64 of A-Za-z0-9_.-, a token at least 16 characters that a header can carry (visible ASCII, no blanks)',
      });
      return z.NEVER;
    }
    const other = byToken.get(token);
    if (other !== undefined) {
      const message =
        other === tenant
          ? `${tenant} has a token twice`
          : `${other} and ${tenant} have the same token; each tenant needs its own`;
      ctx.addIssue({ code: 'custom', message });
      return z.NEVER;
    }
    byToken.set(token, tenant);
  }
  return byToken;
});

/** How much a caller may ask for, and which proxies say where it comes from. */
export const CALLER_VARIABLES = {
  REQUESTS_PER_SECOND: {
    schema: number({ min: 0, max: 1_000_000, default: 200 }),
    about:
      'Requests of one token, or of one address without a good one, in each process; five seconds of them at once. 0: any number.',
  },
  STREAMS_PER_CALLER: {
    schema: number({ min: 0, max: 1_000_000, default: 1_000 }),
    about: 'Streams that one token, or one address without, may have open in each process. 0: any number.',
  },
  TRUSTED_PROXIES: {
    schema: proxies.optional(),
    about: 'Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, commas between.',
  },
} as const satisfies Record<string, { schema: z.ZodType; about: string }>;

export interface CallerSettings {
  /** Of a caller in a process; 0: any number. */
  readonly requestsPerSecond: number;
  /** Of a caller in a process; 0: any number. */
  readonly streamsPerCaller: number;
  /** Absent: no proxy is believed. */
  readonly trustedProxies: readonly string[] | undefined;
}

export function callerSettings(v: {
  REQUESTS_PER_SECOND: number;
  STREAMS_PER_CALLER: number;
  TRUSTED_PROXIES?: string[] | undefined;
}): CallerSettings {
  return {
    requestsPerSecond: v.REQUESTS_PER_SECOND,
    streamsPerCaller: v.STREAMS_PER_CALLER,
    trustedProxies: v.TRUSTED_PROXIES,
  };
}

interface AccessVariables {
  ONCEFLEET_TOKENS?: ReadonlyMap<string, string> | undefined;
  ONCEFLEET_REQUIRE_TOKENS?: boolean | undefined;
  ONCEFLEET_ADMIN_TOKEN?: string | undefined;
  ONCEFLEET_ALLOW_ANYONE?: boolean | undefined;
  ONCEFLEET_CORS_ORIGINS?: readonly string[] | undefined;
  ONCEFLEET_METRICS_TOKEN?: string | undefined;
  ONCEFLEET_METRICS_HOST?: string | undefined;
}

/** What is wrong between the settings that say who may call. */
export function accessIssues(v: AccessVariables): Issue[] {
  const issues: Issue[] = [];
  if (v.ONCEFLEET_ADMIN_TOKEN !== undefined && v.ONCEFLEET_TOKENS?.has(v.ONCEFLEET_ADMIN_TOKEN) === true)
    issues.push({
      path: 'ONCEFLEET_ADMIN_TOKEN',
      message: 'is also a token of a tenant; the board needs one of its own',
    });
  const metricsToken = v.ONCEFLEET_METRICS_TOKEN;
  if (
    metricsToken !== undefined &&
    (v.ONCEFLEET_TOKENS?.has(metricsToken) === true || v.ONCEFLEET_ADMIN_TOKEN === metricsToken)
  )
    issues.push({
      path: 'ONCEFLEET_METRICS_TOKEN',
      message: 'is also the token of a tenant or of the board; the metrics need one of their own',
    });
  const host = v.ONCEFLEET_METRICS_HOST;
  if (host !== undefined && !isLoopback(host) && metricsToken === undefined && v.ONCEFLEET_ALLOW_ANYONE !== true)
    issues.push({
      path: 'ONCEFLEET_METRICS_HOST',
      message:
        'may be another address than loopback only with ONCEFLEET_METRICS_TOKEN; if whoever reaches it may read it, set ONCEFLEET_ALLOW_ANYONE=true',
    });
  if (
    v.ONCEFLEET_CORS_ORIGINS?.includes('*') === true &&
    v.ONCEFLEET_TOKENS === undefined &&
    v.ONCEFLEET_REQUIRE_TOKENS !== true
  )
    issues.push({
      path: 'ONCEFLEET_CORS_ORIGINS',
      message: 'may be * with ONCEFLEET_TOKENS alone: without, every web page could use this server',
    });
  return issues;
}
