/**
 * What tokens may do, as this process knows it.
 *
 * What Postgres said holds for `FRESH_MS`, so a token that is revoked, or made, is so in every process after that
 * long. While Postgres does not answer, a token that was good is accepted until `OUTAGE_MS` after it was last confirmed;
 * one that this process does not know is refused with STORE_UNAVAILABLE, because it may well be good.
 */
import type { FoundToken, Scope, TokenKind } from '../../db/api-tokens.ts';
import { OncefleetError } from '../../errors.ts';
import { Limiter } from '../../util/limiter.ts';
import { within } from '../../util/with-timeout.ts';
import { hashToken, isTokenText } from './token-text.ts';

interface TokenHolder {
  id: string;
  kind: TokenKind;
  /** Null: all tenants. */
  tenant: string | null;
  name: string;
  scopes: readonly Scope[];
  /** Of a session: SHA-256 of the token that logged in. */
  grantedBy: Buffer | null;
  /** That token is one in Postgres; else one of the settings. */
  grantedHere: boolean;
}

export type Resolved =
  | { state: 'active'; holder: TokenHolder }
  | { state: 'unknown' | 'expired' | 'revoked'; holder?: undefined };

interface Entry {
  found: FoundToken | undefined;
  /** By this process's monotonic clock, in milliseconds. */
  confirmedAt: number;
  askedAt: number;
  expiresAt: number;
}

interface TokenCacheOptions {
  find(hash: Buffer): Promise<FoundToken | undefined>;
  noteUse(id: string): Promise<void>;
  onError(error: unknown): void;
  now?(): number;
}

export const FRESH_MS = 2_000;
export const OUTAGE_MS = 300_000;
/** How long a request whose token is known waits for Postgres to confirm it. */
const CONFIRM_MS = 1_000;
/** How long one waits whose token is not known. */
const LOOKUP_MS = 5_000;
/** About 4 MB. The oldest go: they are looked up again. */
const MAX_ENTRIES = 10_000;
/** Lookups under way in a process, and those that wait: unknown tokens must not take all connections. */
const AT_ONCE = 4;
const MAX_WAITING = 200;

export class TokenCache {
  readonly #options: TokenCacheOptions;
  readonly #now: () => number;
  readonly #entries = new Map<string, Entry>();
  readonly #lookups = new Map<string, Promise<Entry>>();
  readonly #limiter = new Limiter({
    atOnce: AT_ONCE,
    maxWaiting: MAX_WAITING,
    refusal: () => new OncefleetError('BUSY', 'Too many tokens are being looked up; try again in a moment'),
  });

  constructor(options: TokenCacheOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  /** @throws OncefleetError STORE_UNAVAILABLE, BUSY; what Postgres throws: it is not known here, and cannot be looked up */
  async resolve(kind: TokenKind, text: string): Promise<Resolved> {
    if (!isTokenText(kind, text)) return { state: 'unknown' };
    const hash = hashToken(text);
    const key = hash.toString('base64');
    const known = this.#entries.get(key);
    const entry = known !== undefined && this.#isFresh(known) ? known : await this.#confirm(key, hash, known);
    return this.#judge(kind, entry);
  }

  /** Forgets what is known of all: what this process has changed itself is so at once. */
  clear(): void {
    this.#entries.clear();
  }

  #isFresh(entry: Entry): boolean {
    return this.#now() - entry.askedAt < FRESH_MS;
  }

  async #confirm(key: string, hash: Buffer, known: Entry | undefined): Promise<Entry> {
    const lookup = this.#lookUp(key, hash);
    // One that was refused is looked up for as long as one that is not known: it may be good now.
    const usable =
      known?.found !== undefined && !known.found.revoked && this.#now() - known.confirmedAt < OUTAGE_MS
        ? known
        : undefined;
    if (usable === undefined)
      return within(LOOKUP_MS, lookup, () => {
        throw new OncefleetError('STORE_UNAVAILABLE', 'Postgres does not answer, and this token is not known here');
      });
    try {
      const confirmed = await within(CONFIRM_MS, lookup, () => undefined);
      if (confirmed !== undefined) return confirmed;
    } catch (error) {
      this.#options.onError(error);
    }
    usable.askedAt = this.#now();
    return usable;
  }

  /** Requests that come together with one token share a lookup. */
  #lookUp(key: string, hash: Buffer): Promise<Entry> {
    let lookup = this.#lookups.get(key);
    if (lookup === undefined) {
      lookup = this.#limiter.run(() => this.#ask(key, hash)).finally(() => this.#lookups.delete(key));
      this.#lookups.set(key, lookup);
      // It may be left to itself.
      lookup.catch(() => {});
    }
    return lookup;
  }

  async #ask(key: string, hash: Buffer): Promise<Entry> {
    // As of the time it was asked: a revocation meanwhile is seen the next time.
    const askedAt = this.#now();
    const found = await this.#options.find(hash);
    const left = found?.expires_in_ms ?? null;
    const expiresAt = left === null ? Number.POSITIVE_INFINITY : askedAt + left;
    const entry = { found, askedAt, confirmedAt: askedAt, expiresAt };
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    if (this.#entries.size > MAX_ENTRIES) {
      const [oldest] = this.#entries.keys();
      this.#entries.delete(oldest as string);
    }
    if (found?.used_due === true && !found.revoked && expiresAt > askedAt)
      this.#options.noteUse(found.id).catch(this.#options.onError);
    return entry;
  }

  #judge(kind: TokenKind, { found, expiresAt }: Entry): Resolved {
    if (found === undefined || found.kind !== kind) return { state: 'unknown' };
    if (found.revoked) return { state: 'revoked' };
    if (this.#now() >= expiresAt) return { state: 'expired' };
    const { id, tenant, name, scopes, granted_by: grantedBy, granted_here: grantedHere } = found;
    return { state: 'active', holder: { id, kind, tenant, name, scopes, grantedBy, grantedHere } };
  }
}
