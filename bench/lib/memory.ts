/** Memory of a bench process that runs with `exposeGc`. */
export interface Memory {
  rssBytes: number;
  /** What is alive: objects, and buffers outside of the heap. */
  liveBytes: number;
}

/** After forced collections: twice, for what a finaliser lets go of. */
export async function memoryAfterGc(): Promise<Memory> {
  if (globalThis.gc === undefined) throw new Error('started without exposeGc');
  await globalThis.gc({ execution: 'async' });
  await globalThis.gc({ execution: 'async' });
  const { rss, heapUsed, external } = process.memoryUsage();
  return { rssBytes: rss, liveBytes: heapUsed + external };
}
