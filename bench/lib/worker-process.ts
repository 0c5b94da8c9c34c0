/** A worker process of the fleet, without its logs. */
import { createFleet } from '../../src/workers/fleet.ts';
import { serve } from './child.ts';
import type { Place } from './databases.ts';
import { type Memory, memoryAfterGc } from './memory.ts';
import { talk } from './talk.ts';

export const commands = {
  async open(order: { place: Place; concurrency: number }): Promise<void> {
    const { databaseUrl, redisUrl, prefix } = order.place;
    const fleet = createFleet({ databaseUrl, redisUrl, prefix, jobs: [talk] });
    await fleet.work({ concurrency: order.concurrency });
  },

  memory: (_: null): Promise<Memory> => memoryAfterGc(),
};

serve(commands);
