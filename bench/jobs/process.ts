/** A process of the jobs bench: runs jobs of one subject, or adds them. */
import { writeFile } from 'node:fs/promises';
import { Session } from 'node:inspector/promises';
import { serve } from '../lib/child.ts';
import { now } from '../lib/clock.ts';
import type { Place } from '../lib/databases.ts';
import { subjects } from './subjects/index.ts';
import type { Consumer, Producer, SubjectName } from './subjects/subject.ts';

export interface Report {
  /** Handlers started since `start`. */
  handled: number;
  /** CPU time of the process since `start`, all threads, ms. */
  cpuMs: number;
  /** CPU time of the main thread since `start`, ms. */
  mainThreadCpuMs: number;
  /** Share of the time since `start` in which the event loop was busy. */
  loopUtilization: number;
  rssBytes: number;
}

const IN_FLIGHT = 100;
const BULK = 1_000;

let consumer: Consumer | undefined;
let producer: Producer | undefined;
let handled = 0;
let startedAt = new Map<number, number>();
let cpu = process.cpuUsage();
let mainThreadCpu = process.threadCpuUsage();
let loop = performance.eventLoopUtilization();
let profiler: Session | undefined;

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
    if (order.profile !== undefined) {
      profiler = new Session();
      profiler.connect();
      await profiler.post('Profiler.enable');
      await profiler.post('Profiler.setSamplingInterval', { interval: 200 });
      await profiler.post('Profiler.start');
    }
    cpu = process.cpuUsage();
    mainThreadCpu = process.threadCpuUsage();
    loop = performance.eventLoopUtilization();
    await consumer?.start();
  },

  async report(order: { profile?: string | undefined }): Promise<Report> {
    const used = process.cpuUsage(cpu);
    const usedByMain = process.threadCpuUsage(mainThreadCpu);
    const { utilization } = performance.eventLoopUtilization(loop);
    if (profiler !== undefined && order.profile !== undefined) {
      const { profile } = await profiler.post('Profiler.stop');
      await writeFile(order.profile, JSON.stringify(profile));
      profiler.disconnect();
      profiler = undefined;
    }
    return {
      handled,
      cpuMs: (used.user + used.system) / 1_000,
      mainThreadCpuMs: (usedByMain.user + usedByMain.system) / 1_000,
      loopUtilization: utilization,
      rssBytes: process.memoryUsage.rss(),
    };
  },

  /** When handlers started, by the job's number, ms on the shared clock. */
  times: (_: null): Map<number, number> => startedAt,

  async pause(_: null): Promise<void> {
    await consumer?.pause();
  },

  async produce(order: { subject: SubjectName; place: Place }): Promise<void> {
    producer = await subjects[order.subject].produce(order.place);
  },

  /** Adds `count` jobs in one of these ways. @returns how long it took, ms */
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
