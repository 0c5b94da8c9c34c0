import { getHeapSpaceStatistics } from 'node:v8';

/** Memory of a bench process that runs with `exposeGc`. */
export interface Memory {
  rssBytes: number;
  /** What is alive: objects, and buffers outside of the heap. */
  liveBytes: number;
  /**
   * The young generation of the heap, as far as it is in memory: as large as the rate of
   * allocation has made it, whatever is alive in it.
   */
  youngBytes: number;
}

/** After forced collections: twice, for what a finaliser lets go of. */
export async function memoryAfterGc(): Promise<Memory> {
  if (globalThis.gc === undefined) throw new Error('started without exposeGc');
  await globalThis.gc({ execution: 'async' });
  await globalThis.gc({ execution: 'async' });
  const { rss, heapUsed, external } = process.memoryUsage();
  const young = getHeapSpaceStatistics().find(({ space_name }) => space_name === 'new_space');
  return { rssBytes: rss, liveBytes: heapUsed + external, youngBytes: young?.physical_space_size ?? 0 };
}
