import type { StreamState } from '../db/streams/segments.ts';
import { OncefleetError } from '../errors.ts';
import type { Place } from './cursor.ts';
import type { BatchMessage } from './message.ts';

/**
 * Where a reader stands, and how much of what it has is sure to stay. It is in one of three states:
 *
 * - **At the head, or behind it** (`fence` undefined). Everything the reader has is committed. A follower
 *   of a plain cursor starts here, and one of a stream that is not `immediate` never leaves it. A
 *   later fence or a missing message needs no rewind: what is missing is read from the journal.
 *   `ahead` leaves this state.
 * - **Ahead of the journal** (`fence` set, `delivered`). We gave the reader events that their owner, at
 *   `fence`, had published and not committed. They may be lost: a message or a head of a later
 *   fence, or a closed head, makes the follower look for the place where the journal parted from them
 *   (`findRewind`). `durable` leaves this state (a committed event was given, so all before
 *   it is), as do `confirm` (the head has them all), a message of their commit, and `rewind`.
 * - **Ahead by a cursor's word alone** (`fence` set, not `delivered`). The reader came back with
 *   `<fence>-<seq>`. A cursor cannot know that its event was committed meanwhile, even as the last one of the
 *   stream, nor what retention has removed since. It is left as the state before; `ahead` leads
 *   from it to the state before. Only the constructor enters it.
 */
export class Tail {
  /** Seq of the event the reader wants. */
  next: number;
  /** What retention had removed when a check of the head last found all that the reader had. */
  keptFrom: number | undefined;
  /** Whose uncommitted events it has. */
  #fence: number | undefined;
  /** We delivered them ourselves; a client's cursor did not claim them. */
  #delivered = false;
  /** The highest fence seen: what a lower one sends ahead of its commit is a zombie's. */
  #latest: number;
  /** The head was checked because of this fence: it is no reason to check it again. */
  #checkedFence = 0;

  /** @throws OncefleetError CURSOR_INVALID */
  constructor(place: Place, state: StreamState) {
    const { seq, fence } = place;
    this.#latest = state.fence;
    // An open stream cannot have been read past its head, nor past what its owner may have sent ahead.
    const beyond =
      fence === undefined || !state.immediate ? seq >= state.nextSeq && !state.closed : fence > state.fence;
    if (beyond) {
      throw new OncefleetError(
        'CURSOR_INVALID',
        `The stream stands at seq ${state.nextSeq - 1}, fence ${state.fence}; the cursor lies beyond it`,
        { details: { after: fence === undefined ? seq : `${fence}-${seq}`, last: state.nextSeq - 1 } },
      );
    }
    this.#fence = state.immediate ? fence : undefined;
    // A finished stream has nothing after any cursor.
    this.next = this.#fence === undefined ? Math.min(seq + 1, state.nextSeq) : seq + 1;
  }

  get fence(): number | undefined {
    return this.#fence;
  }

  get delivered(): boolean {
    return this.#delivered;
  }

  rewind(from: number): void {
    this.next = from;
    this.#fence = undefined;
  }

  /** The head was read, and is no reason to rewind. */
  confirm(state: StreamState): void {
    this.#latest = Math.max(this.#latest, state.fence);
    if (this.#fence !== undefined && (state.fence > this.#fence || state.nextSeq >= this.next)) this.#fence = undefined;
    if (this.#fence === undefined) this.keptFrom = state.keptFrom;
  }

  /** The reader was given a committed event, and with it has all before it. */
  durable(seq: number, fence: number): void {
    this.next = seq + 1;
    this.#fence = undefined;
    this.#latest = Math.max(this.#latest, fence);
  }

  /** The reader was given an event that may be lost. */
  ahead(seq: number, fence: number): void {
    this.next = seq + 1;
    this.#fence = fence;
    this.#delivered = true;
    this.#latest = Math.max(this.#latest, fence);
  }

  /**
   * What to do about a message: drop it, keep it until the events before it have come, check the
   * head first, or give its events from `next` on.
   */
  meet(message: BatchMessage): 'drop' | 'keep' | 'checkHead' | { events: readonly string[] } {
    const { fence, lastSeq, firstSeq, events } = message;
    const tailFence = this.#fence;
    if (tailFence !== undefined && fence > tailFence) {
      // The stream has a new owner: did it take over before the end of our tail?
      if (fence <= this.#checkedFence) return 'drop';
      this.#checkedFence = fence;
      return 'checkHead';
    }
    if (!message.committed && fence < this.#latest) return 'drop';
    if (lastSeq < this.next) {
      // Read already, with what came after the head was checked: has the stream ended, or been redriven since?
      if (message.committed && message.end && lastSeq === this.next - 1) return 'checkHead';
      if (tailFence === undefined || !message.committed) return 'drop';
      if (message.end) return 'checkHead';
      if (fence === tailFence && lastSeq === this.next - 1) this.#fence = undefined;
      return 'drop';
    }
    if (events !== undefined && firstSeq <= this.next) return { events };
    // What is not committed yet cannot be read: its commit is published, or found by a check of the head.
    if (message.committed) return 'checkHead';
    return events === undefined ? 'drop' : 'keep';
  }
}
