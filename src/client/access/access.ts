/** Who may call: tokens of the API, sessions of the console, tickets for streams. */
import { z } from 'zod';
import { findToken, insertToken, listTokens, noteUse, revokeToken, SCOPES, type Scope } from '../../db/api-tokens.ts';
import { findSigningKeys } from '../../db/signing-keys.ts';
import { OncefleetError } from '../../errors.ts';
import { MAX_TOKEN_LIFE_MS, parseOptions, searchText, tenantName } from '../../options.ts';
import { isUuid, uuidV7 } from '../../util/uuid.ts';
import { type ClientHost, tenantOf } from '../host.ts';
import { Tickets } from './tickets.ts';
import { type Resolved, TokenCache } from './token-cache.ts';
import { hashToken, makeTokenText } from './token-text.ts';

export type { Scope };

interface NewTokenOptions {
  tenant?: string;
  /** What it is for, in your words; 1 to 100 characters. */
  name: string;
  /** Default `enqueue` and `read`. */
  scopes?: readonly Scope[];
  /** How long it is accepted, in milliseconds; Infinity: no end. Default 90 days. */
  lifeMs?: number;
}

export interface TokenRecord {
  id: string;
  tenant: string;
  name: string;
  scopes: readonly Scope[];
  status: 'active' | 'expired' | 'revoked';
  createdAt: string;
  expiresAt: string | null;
  /** To a minute. */
  lastUsedAt: string | null;
  revokedAt: string | null;
}

export interface Tokens {
  /**
   * Makes a token. Its text is in the answer alone: Postgres has a hash of it.
   *
   * @throws InputInvalidError
   */
  create(options: NewTokenOptions): Promise<{ id: string; token: string; expiresAt: string | null }>;
  /** Those of a tenant, or all of them, the youngest first. */
  list(options?: { tenant?: string }): Promise<TokenRecord[]>;
  /** Within 2 s no process accepts it. @throws OncefleetError TOKEN_NOT_FOUND */
  revoke(id: string): Promise<void>;
}

/** What the web process asks. */
export interface Access {
  resolve: TokenCache['resolve'];
  tickets: Pick<Tickets, 'sign' | 'check'>;
  /** Makes a session for a person who has shown a token. @returns its text, for the cookie */
  openSession(session: {
    tenant: string | null;
    name: string;
    scopes: readonly Scope[];
    grantedBy: Buffer;
  }): Promise<string>;
  closeSession(id: string): Promise<void>;
}

const DEFAULT_LIFE_MS = 90 * 86_400_000;
const SESSION_LIFE_MS = 12 * 3_600_000;

const createSchema = z.strictObject({
  tenant: tenantName.optional(),
  name: searchText.min(1, 'expected 1 to 100 characters').max(100, 'expected 1 to 100 characters'),
  scopes: z
    .array(z.enum(SCOPES, `expected one of ${SCOPES.join(', ')}`))
    .min(1, 'expected at least one scope')
    .optional(),
  lifeMs: z
    .custom<number>(
      (value) =>
        typeof value === 'number' &&
        (value === Number.POSITIVE_INFINITY || (value >= 1_000 && value <= MAX_TOKEN_LIFE_MS)),
      `expected milliseconds from 1,000 to ${MAX_TOKEN_LIFE_MS}, or Infinity`,
    )
    .optional(),
} satisfies Record<keyof NewTokenOptions, z.ZodType>);

const listSchema = z.strictObject({ tenant: tenantName.optional() });

export function createAccess(host: ClientHost): { tokens: Tokens; access: Access } {
  const { db, log } = host.runtime;
  const cache = new TokenCache({
    find: (hash) => findToken(db.kysely, hash),
    noteUse: (id) => noteUse(db.kysely, id),
    onError: (err) => log.warn({ err }, 'a token could not be confirmed'),
  });
  const end = async (id: string, kind: 'token' | 'session') => {
    const ended = isUuid(id) && (await revokeToken(db.kysely, id, kind));
    cache.clear();
    return ended;
  };
  const access: Access = {
    resolve: (kind, text): Promise<Resolved> => cache.resolve(kind, text),
    tickets: new Tickets(() => findSigningKeys(db.kysely)),
    async openSession(session) {
      const text = makeTokenText('session');
      const made = {
        ...session,
        id: uuidV7(),
        kind: 'session',
        hash: hashToken(text),
        lifeMs: SESSION_LIFE_MS,
      } as const;
      await insertToken(db.kysely, made);
      return text;
    },
    async closeSession(id) {
      await end(id, 'session');
    },
  };
  return { tokens: createTokens(host, (id) => end(id, 'token')), access };
}

function createTokens(host: ClientHost, revoke: (id: string) => Promise<boolean>): Tokens {
  const db = host.runtime.db.kysely;
  return {
    async create(options) {
      const parsed = parseOptions('Token', createSchema, options);
      const { name, scopes = ['enqueue', 'read'], lifeMs = DEFAULT_LIFE_MS } = parsed;
      const token = makeTokenText('token');
      const made = { id: uuidV7(), tenant: tenantOf(host, parsed), name, scopes: [...new Set(scopes)], lifeMs };
      const expiresAt = await insertToken(db, { ...made, kind: 'token', hash: hashToken(token) });
      return { id: made.id, token, expiresAt: expiresAt?.toISOString() ?? null };
    },
    async list(options = {}) {
      const rows = await listTokens(db, parseOptions('Tokens', listSchema, options).tenant);
      return rows.map((row) => ({
        id: row.id,
        tenant: row.tenant ?? '',
        name: row.name,
        scopes: row.scopes,
        status: row.revoked_at !== null ? 'revoked' : row.expired ? 'expired' : 'active',
        createdAt: row.created_at.toISOString(),
        expiresAt: row.expires_at?.toISOString() ?? null,
        lastUsedAt: row.last_used_at?.toISOString() ?? null,
        revokedAt: row.revoked_at?.toISOString() ?? null,
      }));
    },
    async revoke(id) {
      if (!(await revoke(id)))
        throw new OncefleetError('TOKEN_NOT_FOUND', `No token has the id ${String(id).slice(0, 100)}`);
    },
  };
}
