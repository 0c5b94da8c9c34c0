/** A case: a place of its own, and processes that end with it. */
import type { Services } from '../../scripts/services.ts';
import { BenchProcess, type Commands } from './child.ts';
import type { Place, Places } from './databases.ts';

export interface Bed {
  services: Services;
  places: Places;
  signal: AbortSignal;
}

export interface Case {
  place: Place;
  /** Starts a process for this case. @param file an absolute path; its module calls `serve` */
  start<C extends Commands>(file: string, options?: { exposeGc?: boolean }): BenchProcess<C>;
}

/** @param template names the database's template, which `prepare` makes the first time */
export async function withCase<T>(
  bed: Bed,
  template: { name: string; prepare(databaseUrl: string): Promise<void> },
  run: (parts: Case) => Promise<T>,
): Promise<T> {
  bed.signal.throwIfAborted();
  const { remove, ...place } = await bed.places.create(template.name, template.prepare);
  const processes: BenchProcess<Commands>[] = [];
  const stop = () => Promise.all(processes.map((one) => one.stop()));
  const onAbort = () => void stop();
  bed.signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await run({
      place,
      start<C extends Commands>(file: string, options: { exposeGc?: boolean } = {}) {
        const started = new BenchProcess<C>(file, options);
        processes.push(started as unknown as BenchProcess<Commands>);
        return started;
      },
    });
  } finally {
    bed.signal.removeEventListener('abort', onAbort);
    await stop();
    await remove();
  }
}
