/** A queue under test, seen from both sides. All run the same job: it has a key, and does nothing. */
import type { Place } from '../../lib/databases.ts';

export interface Subject {
  name: SubjectName;
  title: string;
  /** What is measured besides processing. */
  measures: readonly ('adding' | 'latency')[];
  supports(concurrency: number): boolean;
  /** Makes its tables in an empty database; leaves no connection open. */
  prepare(databaseUrl: string): Promise<void>;
  /** The side that adds jobs. */
  produce(place: Place): Promise<Producer>;
  /** The side that runs them; idle until `start`. */
  consume(place: Place, options: ConsumeOptions): Promise<Consumer>;
}

export type SubjectName = 'bullmq' | 'naive' | 'oncefleet' | 'pg-boss' | 'graphile-worker';

export interface ConsumeOptions {
  concurrency: number;
  /** Called as a job's handler starts. */
  onJob(input: JobInput): void;
}

export interface JobInput {
  /** Its number in this case, from 0. */
  n: number;
}

export interface Producer {
  /** Adds jobs `first` to `first + count - 1`, each with the key of its number, as fast as it can. */
  fill(first: number, count: number): Promise<void>;
  /** How many jobs are not finished. */
  countRemaining(): Promise<number>;
  /** Adds one job and waits until its producer knows that it is accepted. Absent: rates of adding are not measured. */
  add?(n: number): Promise<void>;
  /** Adds these jobs in the way that is meant for many at once. */
  addBulk?(first: number, count: number): Promise<void>;
  /** Adds a job and waits for its result, as a caller would. Absent: its latency is not measured. */
  addAndWait?(n: number): Promise<void>;
  /** Makes BullMQ deliver jobs once more whose keys have completed. */
  redeliver?(how: Redelivery, first: number, count: number): Promise<void>;
  close(): Promise<void>;
}

/** `delivery`: BullMQ delivers an enqueued job again. `duplicate`: another BullMQ client adds a job with the same key. */
export type Redelivery = 'delivery' | 'duplicate';

export interface Consumer {
  /** Begins to run jobs. */
  start(): Promise<void>;
  /** Runs no more jobs until the next `start`; called when there are none. */
  pause(): Promise<void>;
  close(): Promise<void>;
}

export function keyOf(n: number): string {
  return `job-${n}`;
}

export function range(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}
