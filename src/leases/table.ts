/**
 * The leases of a process in memory that the lease thread reads: taking and releasing a lease
 * are a few stores, where a message to the thread would wake it for every job.
 *
 * One side writes (the event loop's), the other reads. A slot's generation is stored last
 * when it is taken and is 0 while it is free, so a reader that finds the same generation
 * before and after has read one lease, whole.
 */

export interface LeaseRef {
  jobId: string;
  fence: number;
}

export interface LeaseEntry extends LeaseRef {
  /** Names this taking of the slot. */
  generation: number;
  ttlMs: number;
  /** Monotonic ns. */
  claimSentAt: bigint;
}

/** How often a lease is renewed, in milliseconds: three attempts fit into a TTL. */
export function heartbeatOf(ttlMs: number, heartbeatMs: number): number {
  return Math.min(heartbeatMs, ttlMs / 3);
}

const ID_LENGTH = 36;

/** Bytes of a slot: generation (4, padded to 8), fence, TTL, time of the claim (8 each), job id (36, padded to 40). */
const SLOT = 72;
const SLOT_WORDS = SLOT / 4;
const SLOT_DOUBLES = SLOT / 8;

/** Before the slots: how many have ever been used. */
const HEADER = SLOT;

const FIRST_SLOTS = 256;

/** Address space set aside, not memory: a process runs out of other things first. */
const MAX_SLOTS = 1_000_000;

export class LeaseTable {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #doubles: Float64Array;
  readonly #times: BigInt64Array;
  readonly #bytes: Buffer;
  readonly #free: number[] = [];
  #generation = 0;

  /** @param buffer the table of another thread, to be read */
  constructor(buffer?: SharedArrayBuffer) {
    this.buffer =
      buffer ?? new SharedArrayBuffer(HEADER + FIRST_SLOTS * SLOT, { maxByteLength: HEADER + MAX_SLOTS * SLOT });
    this.#words = new Int32Array(this.buffer);
    this.#doubles = new Float64Array(this.buffer);
    this.#times = new BigInt64Array(this.buffer);
    this.#bytes = Buffer.from(this.buffer);
  }

  /** @returns the slot, for `release` */
  hold(lease: Omit<LeaseEntry, 'generation'>): number {
    const slot = this.#free.pop() ?? this.#addSlot();
    const double = slot * SLOT_DOUBLES;
    this.#doubles[double + 1] = lease.fence;
    this.#doubles[double + 2] = lease.ttlMs;
    this.#times[double + 3] = lease.claimSentAt;
    const start = slot * SLOT + 32;
    this.#bytes.write(lease.jobId, start, ID_LENGTH, 'latin1');
    this.#generation = (this.#generation % 0x7fff_ffff) + 1;
    Atomics.store(this.#words, slot * SLOT_WORDS, this.#generation);
    return slot;
  }

  release(slot: number): void {
    Atomics.store(this.#words, slot * SLOT_WORDS, 0);
    this.#free.push(slot);
  }

  /** The leases held now. A slot that changes hands while it is read is left out. */
  read(): LeaseEntry[] {
    const entries: LeaseEntry[] = [];
    const used = Atomics.load(this.#words, 0);
    for (let slot = 1; slot <= used; slot++) {
      const generation = Atomics.load(this.#words, slot * SLOT_WORDS);
      if (generation === 0) continue;
      const double = slot * SLOT_DOUBLES;
      const start = slot * SLOT + 32;
      const entry = {
        generation,
        jobId: this.#bytes.toString('latin1', start, start + ID_LENGTH),
        fence: this.#doubles[double + 1] as number,
        ttlMs: this.#doubles[double + 2] as number,
        claimSentAt: this.#times[double + 3] as bigint,
      };
      if (Atomics.load(this.#words, slot * SLOT_WORDS) === generation) entries.push(entry);
    }
    return entries;
  }

  #addSlot(): number {
    const slot = (this.#words[0] as number) + 1;
    const needed = (slot + 1) * SLOT;
    if (needed > this.buffer.byteLength) this.buffer.grow(Math.min(needed * 2, this.buffer.maxByteLength));
    Atomics.store(this.#words, 0, slot);
    return slot;
  }
}
