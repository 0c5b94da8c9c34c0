/** A worker that ingests, and what it used of the machine. */
import { createFleet } from '../../src/workers/fleet.ts';
import { serve } from '../lib/child.ts';
import type { Place } from '../lib/databases.ts';
import { Meter, type Usage } from '../lib/meter.ts';
import { createJobs } from '../retrieval/jobs.ts';

const meter = new Meter();

export const commands = {
  async open({ databaseUrl, redisUrl, prefix }: Place): Promise<void> {
    await createFleet({ databaseUrl, redisUrl, prefix, jobs: [createJobs().ingest] }).work({ concurrency: 4 });
  },

  start: (_: null): Promise<void> => meter.start(),

  /** Since `start`, with the most memory that the process ever had. */
  async stop(_: null): Promise<Usage & { peakRssBytes: number }> {
    return { ...(await meter.stop()), peakRssBytes: process.resourceUsage().maxRSS * 1_024 };
  },
};

serve(commands);
