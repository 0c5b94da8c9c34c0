/** A way to write streams of events, seen from both sides. */
import type { Place } from '../../lib/databases.ts';
import type { BenchEvent } from '../../lib/events.ts';

export type SubjectName = 'insert' | 'origin' | 'copy' | 'oncefleet' | 'oncefleet-16' | 'resumable-stream';

export interface Subject {
  name: SubjectName;
  title: string;
  /** Its database; subjects with the same one share its name. */
  template: { name: string; prepare(databaseUrl: string): Promise<void> };
  /** What holds its events. */
  tables: readonly string[];
  /** Events of a case of the journal bench, so that it lasts some seconds. */
  events(streams: number): number;
  write(place: Place): Promise<StreamWriter>;
  /** The live side, in another process. Absent: nothing is published. */
  read?(place: Place): Promise<StreamReader>;
}

export interface StreamWriter {
  /** Makes streams without events. @returns their ids */
  open(count: number): Promise<string[]>;
  /** Appends an event; a producer waits for it before its next one on this stream. */
  emit(streamId: string, event: BenchEvent): Promise<void>;
  /** Resolves when all that was emitted is as durable as it gets. */
  settle(): Promise<void>;
  close(): Promise<void>;
}

/** Takes an event of a stream; both counted from 0. */
export type OnEvent = (stream: number, seq: number, event: BenchEvent) => void;

export interface StreamReader {
  /** Resolves when whatever is emitted from then on is received live. */
  attach(streamIds: readonly string[], onEvent: OnEvent): Promise<void>;
  close(): Promise<void>;
}
