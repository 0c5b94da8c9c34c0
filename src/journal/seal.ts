/**
 * Seals of live messages. Every client of Redis can publish on a channel; what is shown to readers without a look
 * at the journal must come from a process that can read Postgres, where the key is. A seal is an HMAC-SHA256 of
 * the channel and the message, cut to 128 bits: 2 to 4 µs a message, of either side.
 *
 * A message that is repeated has its seal, and costs nothing: its events are those of the journal at their seqs.
 */
import { createHmac, createSecretKey, type KeyObject, timingSafeEqual } from 'node:crypto';
import type { Kysely } from 'kysely';
import { findLiveKey } from '../db/live-key.ts';
import type { Database } from '../db/schema.ts';

/** The key, read from Postgres once. */
export class LiveKey {
  readonly #db: Kysely<Database>;
  #loading: Promise<KeyObject> | undefined;
  #loaded: KeyObject | undefined;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  get loaded(): KeyObject | undefined {
    return this.#loaded;
  }

  /** Asked again after a failure. */
  load(): Promise<KeyObject> {
    this.#loading ??= this.#load();
    return this.#loading;
  }

  async #load(): Promise<KeyObject> {
    try {
      this.#loaded = createSecretKey(await findLiveKey(this.#db));
      return this.#loaded;
    } catch (error) {
      this.#loading = undefined;
      throw error;
    }
  }
}

/** Of 128 bits as base64url. */
const SEAL_LENGTH = 22;

/** What a sealed batch starts with. A build without seals reads the message as well, and ignores the field. */
const OPENING = '{"seal":"';
const BODY_AT = OPENING.length + SEAL_LENGTH + 2;

/** @param message what `encodeBatchMessage` has made */
export function sealBatch(key: KeyObject, channel: string, message: string): string {
  const body = message.slice(1);
  return `${OPENING}${sealOf(key, channel, body)}",${body}`;
}

/** @returns the message, or undefined where the seal is missing or wrong */
export function openBatch(key: KeyObject, channel: string, sealed: string): string | undefined {
  if (!sealed.startsWith(OPENING)) return undefined;
  const body = sealed.slice(BODY_AT);
  const seal = sealed.slice(OPENING.length, OPENING.length + SEAL_LENGTH);
  return isSeal(seal, sealOf(key, channel, body)) ? `{${body}` : undefined;
}

/** @param ids with commas between. The seal stands before them, where a build without seals finds no stream of that id */
export function sealEndings(key: KeyObject, channel: string, ids: string): string {
  return `${sealOf(key, channel, ids)},${ids}`;
}

/** @returns the ids, or undefined where the seal is missing or wrong */
export function openEndings(key: KeyObject, channel: string, sealed: string): string | undefined {
  const ids = sealed.slice(SEAL_LENGTH + 1);
  return isSeal(sealed.slice(0, SEAL_LENGTH), sealOf(key, channel, ids)) ? ids : undefined;
}

function sealOf(key: KeyObject, channel: string, body: string): string {
  return createHmac('sha256', key).update(`${channel}\n${body}`).digest('base64url').slice(0, SEAL_LENGTH);
}

function isSeal(given: string, expected: string): boolean {
  const bytes = Buffer.from(given);
  return bytes.length === SEAL_LENGTH && timingSafeEqual(bytes, Buffer.from(expected));
}
