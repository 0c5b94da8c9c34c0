/** A worker with the built-in jobs and a model for embeddings, for tests that kill it. */
import { createBuiltinJobs } from '../../../src/jobs/builtin-jobs.ts';
import { createFleet, type FleetOptions } from '../../../src/workers/fleet.ts';

const { baseUrl, ...options } = JSON.parse(process.argv[2] as string) as FleetOptions & { baseUrl: string };
const embedding = { baseUrl, apiKey: undefined, name: 'm', limits: { batch: 4 } };
const fleet = createFleet({ ...options, jobs: createBuiltinJobs({ model: undefined, embedding }), reconcileMs: 300 });
await fleet.work();
// The test is gone, however it went.
process.on('disconnect', () => process.exit(1));
