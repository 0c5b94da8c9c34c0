/** Runs the jobs of the bench. */
import { createFleet } from '../../src/workers/fleet.ts';
import { serve } from '../lib/child.ts';
import type { Place } from '../lib/databases.ts';
import { count, say } from './jobs.ts';

export const commands = {
  async open({ databaseUrl, redisUrl, prefix }: Place): Promise<void> {
    await createFleet({ databaseUrl, redisUrl, prefix, jobs: [say, count] }).work({ concurrency: 4 });
  },
};

serve(commands);
