import type { AttemptEvent, StreamEvent, SystemEvent, TerminalEvent } from '../../journal/event.ts';

/** An event in its place, whose type is known. */
export type Placed<E extends SystemEvent> = Omit<StreamEvent, 'event'> & { event: E };

/** Why a stream is not started, or is ended before its terminal event, though it can be had later. */
export type Unavailability = 'SHUTTING_DOWN' | 'STORE_UNAVAILABLE';

/**
 * How the events of a job become the bytes that one kind of client understands. A new kind of client is
 * one more implementation, and a route that hands it to `streamEvents`.
 *
 * A dialect is a projection of the journal: the same events give the same bytes, whether they are read
 * live or replayed, so that a reader that comes back can be sent what it missed. A method that
 * has nothing to say about an event returns the empty string.
 *
 * Where frames depend on more than their event (sequence numbers, parts that are open, the
 * text so far) the object is one reader's: its route makes it, knows the job and the reader's cursor,
 * and reads the journal from the start. Where they do not, one object serves all readers
 * (`shared`), and the frames of a batch are made once for all of them.
 */
export interface Dialect {
  /** Each frame depends on its event alone, and this object is the dialect of all its readers. */
  readonly shared: boolean;
  /**
   * Of a dialect with state: readers whose dialects have the same object here, and have had the same events, are in the
   * same state and are sent the same frames of a batch. These are made once, and the others take the state over.
   * Undefined: this reader's frames are its own for now.
   */
  readonly common?: object | undefined;
  /** The state, as `load` of another reader's dialect takes it. */
  save?(): unknown;
  load?(state: unknown): void;
  /** Headers besides those of every event stream. */
  readonly headers: Readonly<Record<string, string>>;
  /** Sent when the stream was quiet; no event to its client. */
  readonly keepalive: string;
  /** Before the first event. */
  open(): string;
  /** An event of the handler, or one of the fleet's that has no method of its own (`progress`, `retry`). */
  event(event: StreamEvent): string;
  /**
   * A later attempt starts: what it supersedes is in the event.
   *
   * @throws ReconnectRequired where clients cannot start over within a response
   */
  attempt(event: Placed<AttemptEvent>): string;
  /**
   * Events from `from` on were lost in a crash. It is not in the journal, so no reader may resume from it.
   * Absent in dialects whose clients cannot take events back: they are sent committed events alone.
   */
  rewind?(event: Placed<Extract<SystemEvent, { type: 'rewind' }>>): string;
  /**
   * A terminal event: a result, an error or a cancel. Not always the last: a failed job that was redriven has
   * its `error` in the middle, before an `attempt`. A dialect with one end keeps it until `close`.
   */
  end(event: Placed<TerminalEvent>): string;
  /** After the last event. The response then ends cleanly, as it does nowhere else but after `unavailable`. */
  close(): string;
  /**
   * Tells the client to connect again later; the response then ends cleanly. Undefined where only a terminal
   * event may end a body cleanly: then a response that has begun is destroyed, and one that has
   * not is an error with a status.
   *
   * @param code for people; undefined where the stream has begun
   */
  unavailable(code?: Unavailability): string | undefined;
}

/** The client cannot take what comes next in this response: the response is cut off, and the client connects again. */
export class ReconnectRequired extends Error {}
