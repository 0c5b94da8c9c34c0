/** The people that look at the console: a session that a token has opened, or anybody where no tokens are needed. */
import { timingSafeEqual } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Scope } from '../../client/access/access.ts';
import { hashToken } from '../../client/access/token-text.ts';
import type { JobClient } from '../../client/client.ts';
import type { Config } from '../../config.ts';
import { OncefleetError } from '../../errors.ts';

export interface Viewer {
  /** For people: the name of the token. */
  name: string;
  /** Null: all tenants. */
  tenant: string | null;
  scopes: readonly Scope[];
  /** Null where no login is needed. */
  sessionId: string | null;
}

type SessionConfig = Pick<Config, 'tokens' | 'adminToken' | 'tenant'>;

/** How often requests in progress are asked again whether their session is still good. */
const LOOK_AGAIN_MS = 2_000;

const COOKIE = 'oncefleet_session';
const SESSION_S = 12 * 3_600;
/** Wrong tokens that an address may try in a minute. */
const MAX_FAILURES = 10;
const FAILURES_MS = 60_000;
/** Addresses that are remembered; beyond it all are refused that fail, until the minute is over. */
const MAX_ADDRESSES = 10_000;

export class Sessions {
  readonly #config: SessionConfig;
  readonly #access: JobClient['access'];
  readonly #failures = new Map<string, number>();
  #since = performance.now();
  /** Requests in progress, which end with their sessions. */
  readonly #watched = new Map<FastifyReply, FastifyRequest>();
  readonly #watch: NodeJS.Timeout;

  constructor(config: SessionConfig, client: Pick<JobClient, 'access'>) {
    this.#config = config;
    this.#access = client.access;
    this.#watch = setInterval(() => {
      for (const [reply, request] of this.#watched) void this.#endIfOver(request, reply);
    }, LOOK_AGAIN_MS);
    this.#watch.unref();
  }

  /** Whether anybody has to log in. */
  get needed(): boolean {
    return this.#config.tokens !== undefined;
  }

  /** Ends a response that is under way when its session ends: by a logout, or with the token that opened it. */
  watch(request: FastifyRequest, reply: FastifyReply): void {
    this.#watched.set(reply, request);
    reply.raw.once('close', () => this.#watched.delete(reply));
  }

  stop(): void {
    clearInterval(this.#watch);
  }

  async #endIfOver(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    try {
      if ((await this.find(request)) === undefined) reply.raw.destroy();
    } catch {
      // Postgres does not answer: the session was good before.
    }
  }

  /** @returns undefined: not logged in, or not any more @throws what Postgres throws: the session is not known here */
  async find(request: FastifyRequest): Promise<Viewer | undefined> {
    if (!this.needed) return { name: 'local', tenant: null, scopes: ['admin'], sessionId: null };
    const text = cookieOf(request);
    if (text === undefined) return undefined;
    const { holder } = await this.#access.resolve('session', text);
    if (holder === undefined) return undefined;
    // The settings may have changed since: a session is worth what its token is worth now.
    if (!holder.grantedHere && this.#grantOf(holder.grantedBy)?.tenant !== holder.tenant) return undefined;
    const { name, tenant, scopes, id: sessionId } = holder;
    return { name, tenant, scopes, sessionId };
  }

  /**
   * Opens a session for a person with a token, and sets its cookie.
   *
   * @throws OncefleetError TOO_MANY_REQUESTS, UNAUTHORIZED
   */
  async open(token: string, request: FastifyRequest, reply: FastifyReply): Promise<void> {
    this.#throttle(request, reply);
    const grantedBy = hashToken(token);
    const granted = this.#grantOf(grantedBy) ?? (await this.#grantInPostgres(token));
    if (granted === undefined) {
      this.#failures.set(request.ip, (this.#failures.get(request.ip) ?? 0) + 1);
      throw new OncefleetError('UNAUTHORIZED', 'The token is not known, has expired or was revoked');
    }
    const text = await this.#access.openSession({ ...granted, grantedBy });
    setCookie(request, reply, text, SESSION_S);
  }

  async close(viewer: Viewer, request: FastifyRequest, reply: FastifyReply): Promise<void> {
    setCookie(request, reply, '', 0);
    if (viewer.sessionId !== null) await this.#access.closeSession(viewer.sessionId);
  }

  #throttle(request: FastifyRequest, reply: FastifyReply): void {
    const now = performance.now();
    if (now - this.#since > FAILURES_MS) {
      this.#since = now;
      this.#failures.clear();
    }
    if ((this.#failures.get(request.ip) ?? 0) < MAX_FAILURES && this.#failures.size < MAX_ADDRESSES) return;
    reply.header('retry-after', Math.ceil((this.#since + FAILURES_MS - now) / 1_000));
    throw new OncefleetError(
      'TOO_MANY_REQUESTS',
      'Too many wrong tokens came from this address; try again in a minute',
    );
  }

  /** What a token of the settings grants. Compares with every one. */
  #grantOf(hash: Buffer | null): Pick<Viewer, 'name' | 'tenant' | 'scopes'> | undefined {
    if (hash === null) return undefined;
    const { adminToken, tokens = new Map<string, string>() } = this.#config;
    let found: Pick<Viewer, 'name' | 'tenant' | 'scopes'> | undefined;
    if (adminToken !== undefined && timingSafeEqual(hashToken(adminToken), hash))
      found = { name: 'operator', tenant: null, scopes: ['admin'] };
    for (const [token, tenant] of tokens)
      if (timingSafeEqual(hashToken(token), hash)) found = { name: tenant, tenant, scopes: ['admin'] };
    return found;
  }

  async #grantInPostgres(token: string): Promise<Pick<Viewer, 'name' | 'tenant' | 'scopes'> | undefined> {
    const { holder } = await this.#access.resolve('token', token);
    return holder?.tenant === undefined || holder.tenant === null || !can(holder, 'read') ? undefined : holder;
  }
}

export function can({ scopes }: Pick<Viewer, 'scopes'>, scope: Scope): boolean {
  return scopes.includes('admin') || scopes.includes(scope);
}

function cookieOf({ headers }: FastifyRequest): string | undefined {
  for (const pair of (headers.cookie ?? '').split(';')) {
    const [name, value] = pair.trim().split('=', 2);
    if (name === COOKIE && value !== undefined && value !== '') return value;
  }
  return undefined;
}

function setCookie({ protocol, headers }: FastifyRequest, reply: FastifyReply, value: string, maxAgeS: number): void {
  // A proxy in front has the TLS. Somebody who makes this header up has a cookie less.
  const secure = protocol === 'https' || headers['x-forwarded-proto'] === 'https' ? '; Secure' : '';
  reply.header('set-cookie', `${COOKIE}=${value}; Path=/; Max-Age=${maxAgeS}; HttpOnly; SameSite=Strict${secure}`);
}
