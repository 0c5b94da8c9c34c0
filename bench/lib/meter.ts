/** What a bench process used of its machine in one measured stretch. */
import { writeFile } from 'node:fs/promises';
import { Session } from 'node:inspector/promises';

/** A sample each 0.2 ms: stretches last seconds. */
const PROFILE_INTERVAL_US = 200;

export interface Usage {
  /** CPU time of the process, all threads, in milliseconds. */
  cpuMs: number;
  /** CPU time of the main thread, in milliseconds. */
  mainThreadCpuMs: number;
  /** Share of the time in which the event loop was busy. */
  loopUtilization: number;
  rssBytes: number;
}

export class Meter {
  #cpu = process.cpuUsage();
  #mainThreadCpu = process.threadCpuUsage();
  #loop = performance.eventLoopUtilization();
  #profile: { session: Session; file: string } | undefined;

  /** @param profile where to write a CPU profile of the main thread at `stop` */
  async start(profile?: string): Promise<void> {
    if (profile !== undefined) {
      const session = new Session();
      session.connect();
      await session.post('Profiler.enable');
      await session.post('Profiler.setSamplingInterval', { interval: PROFILE_INTERVAL_US });
      await session.post('Profiler.start');
      this.#profile = { session, file: profile };
    }
    this.#cpu = process.cpuUsage();
    this.#mainThreadCpu = process.threadCpuUsage();
    this.#loop = performance.eventLoopUtilization();
  }

  /** What was used since `start`. */
  async stop(): Promise<Usage> {
    const used = process.cpuUsage(this.#cpu);
    const usedByMain = process.threadCpuUsage(this.#mainThreadCpu);
    const { utilization } = performance.eventLoopUtilization(this.#loop);
    if (this.#profile !== undefined) {
      const { session, file } = this.#profile;
      const { profile } = await session.post('Profiler.stop');
      await writeFile(file, JSON.stringify(profile));
      session.disconnect();
      this.#profile = undefined;
    }
    return {
      cpuMs: (used.user + used.system) / 1_000,
      mainThreadCpuMs: (usedByMain.user + usedByMain.system) / 1_000,
      loopUtilization: utilization,
      rssBytes: process.memoryUsage.rss(),
    };
  }
}
