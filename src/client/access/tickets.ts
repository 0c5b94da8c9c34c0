/**
 * Tickets: what lets a reader that cannot set headers follow one stream for a while.
 *
 * `<key id>.<expiry, ms since 1970, base 36>.<tenant>.<HMAC-SHA-256 of tenant, job and expiry>`. The job is in the path.
 * The key is in Postgres, so that every process checks what any has signed; it is another one every day.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import type { SigningKey } from '../../db/signing-keys.ts';
import { OncefleetError } from '../../errors.ts';
import { within } from '../../util/with-timeout.ts';

/** A tenant has 255 characters at most, each up to 3 bytes of UTF-8. */
const TICKET = /^(\d{1,9})\.([0-9a-z]{1,11})\.([A-Za-z0-9_-]{2,1020})\.([A-Za-z0-9_-]{43})$/;
/** A key that was deleted, as after a leak, is refused after this long. */
const KEYS_MS = 60_000;
/** How often a ticket of an unknown key has the keys read again. */
const UNKNOWN_MS = 1_000;
/** Keys of earlier reads are used this long while Postgres does not answer. */
const OUTAGE_MS = 300_000;
/** How long a reader waits for keys that this process does not have. */
const READ_MS = 5_000;

interface Ticket {
  tenant: string;
  jobId: string;
  /** ms since 1970. */
  expiresAt: number;
}

export class Tickets {
  readonly #find: () => Promise<SigningKey[]>;
  readonly #now: () => number;
  #keys: readonly SigningKey[] = [];
  #readAt = Number.NEGATIVE_INFINITY;
  #reading: Promise<readonly SigningKey[]> | undefined;

  /** @param find gives the keys, the youngest first @param now ms since 1970 */
  constructor(find: () => Promise<SigningKey[]>, now: () => number = Date.now) {
    this.#find = find;
    this.#now = now;
  }

  /** @throws what Postgres throws: there is no key that can sign */
  async sign(ticket: Ticket): Promise<string> {
    const [key] = await this.#fresh(KEYS_MS);
    if (key === undefined) throw new Error('there is no key to sign with');
    const tenant = Buffer.from(ticket.tenant).toString('base64url');
    return `${key.id}.${ticket.expiresAt.toString(36)}.${tenant}.${macOf(key, ticket).toString('base64url')}`;
  }

  /**
   * Whose stream it lets a reader follow.
   *
   * @throws what Postgres throws: its key is not known here
   */
  async check(
    text: string,
    jobId: string,
  ): Promise<{ state: 'active'; tenant: string } | { state: 'expired' | 'unknown' }> {
    const [, id, expiry, encoded, mac] = TICKET.exec(text) ?? [];
    if (id === undefined || expiry === undefined || encoded === undefined || mac === undefined)
      return { state: 'unknown' };
    const expiresAt = Number.parseInt(expiry, 36);
    const tenant = Buffer.from(encoded, 'base64url').toString();
    const isNamed = ({ id: own }: SigningKey) => own === Number(id);
    let key = (await this.#fresh(KEYS_MS)).find(isNamed);
    key ??= (await this.#fresh(UNKNOWN_MS)).find(isNamed);
    if (key === undefined) return { state: 'unknown' };
    const expected = macOf(key, { tenant, jobId, expiresAt });
    if (!timingSafeEqual(expected, Buffer.from(mac, 'base64url'))) return { state: 'unknown' };
    return expiresAt > this.#now() ? { state: 'active', tenant } : { state: 'expired' };
  }

  /** Keys that were read no longer ago than this, or older ones while Postgres does not answer. */
  async #fresh(maxAgeMs: number): Promise<readonly SigningKey[]> {
    const age = performance.now() - this.#readAt;
    if (age < maxAgeMs) return this.#keys;
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    try {
      return await within(READ_MS, this.#reading, () => {
        throw new OncefleetError('STORE_UNAVAILABLE', 'Postgres does not answer, and this ticket is not known here');
      });
    } catch (error) {
      if (age > OUTAGE_MS) throw error;
      return this.#keys;
    }
  }

  async #read(): Promise<readonly SigningKey[]> {
    const keys = await this.#find();
    this.#keys = keys;
    this.#readAt = performance.now();
    return keys;
  }
}

function macOf({ secret }: SigningKey, { tenant, jobId, expiresAt }: Ticket): Buffer {
  // As JSON: no two tickets have the same text.
  return createHmac('sha256', secret)
    .update(JSON.stringify(['ticket', tenant, jobId, expiresAt]))
    .digest();
}
