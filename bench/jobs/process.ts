/** A process of the jobs bench: runs jobs of one subject, or adds them. */
import { serve } from '../lib/child.ts';
import { now } from '../lib/clock.ts';
import type { Place } from '../lib/databases.ts';
import { Meter, type Usage } from '../lib/meter.ts';
import { subjects } from './subjects/index.ts';
import type { Consumer, Producer, SubjectName } from './subjects/subject.ts';

export interface Report extends Usage {
  /** Handlers started since `start`. */
  handled: number;
}

const IN_FLIGHT = 100;
const BULK = 1_000;

let consumer: Consumer | undefined;
let producer: Producer | undefined;
let handled = 0;
let startedAt = new Map<number, number>();
const meter = new Meter();

export const commands = {
  async consume(order: {
    subject: SubjectName;
    place: Place;
    concurrency: number;
    withTimes?: boolean;
  }): Promise<void> {
    const { subject, place, concurrency, withTimes = false } = order;
    consumer = await subjects[subject].consume(place, {
      concurrency,
      onJob({ n }) {
        handled++;
        if (withTimes) startedAt.set(n, now());
      },
    });
  },

  /** @param order.profile where to write a CPU profile of the main thread at `report` */
  async start(order: { profile?: string | undefined }): Promise<void> {
    handled = 0;
    startedAt = new Map();
    await meter.start(order.profile);
    await consumer?.start();
  },

  async report(_: null): Promise<Report> {
    return { handled, ...(await meter.stop()) };
  },

  /** When handlers started, by the job's number, in milliseconds on the shared clock. */
  times: (_: null): Map<number, number> => startedAt,

  async pause(_: null): Promise<void> {
    await consumer?.pause();
  },

  async produce(order: { subject: SubjectName; place: Place }): Promise<void> {
    producer = await subjects[order.subject].produce(order.place);
  },

  /** Adds `count` jobs in one of these ways. @returns how long it took, in milliseconds */
  async add(order: { way: AddWay; first: number; count: number }): Promise<number> {
    const { add, addBulk } = producer ?? {};
    if (add === undefined || addBulk === undefined) throw new Error('this subject only fills');
    const { way, first, count } = order;
    const begun = now();
    if (way === 'bulk') {
      for (let done = 0; done < count; done += BULK) await addBulk(first + done, Math.min(BULK, count - done));
    } else {
      let next = first;
      const lane = async () => {
        while (next < first + count) await add(next++);
      };
      await Promise.all(Array.from({ length: way === 'single' ? 1 : IN_FLIGHT }, lane));
    }
    return now() - begun;
  },

  async close(_: null): Promise<void> {
    await consumer?.close();
    await producer?.close();
  },
};

/** One after the other, each awaited; 100 at any time; 1,000 at once; 100 at any time, with keys that have completed. */
export type AddWay = 'single' | 'concurrent' | 'bulk' | 'replayed';

serve(commands);
