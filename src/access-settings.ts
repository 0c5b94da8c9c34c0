/** The settings that say who may call a process, and what must hold between them. */
import { z } from 'zod';
import type { Issue } from './errors.ts';
import { isLoopback, SHORT_NAME } from './options.ts';

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
