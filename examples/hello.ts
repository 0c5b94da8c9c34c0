/** The library in one file. Run: DATABASE_URL=… REDIS_URL=… node --conditions=oncefleet-source examples/hello.ts */
import { createFleet, defineJob } from 'oncefleet';
import { z } from 'zod';

const hello = defineJob({
  name: 'hello',
  input: z.object({ name: z.string() }),
  async run({ name }, ctx) {
    for (const word of ['Hello,', name]) await ctx.emit({ type: 'word', word });
    return `Hello, ${name}!`;
  },
});

const fleet = createFleet({
  databaseUrl: process.env.DATABASE_URL ?? '',
  redisUrl: process.env.REDIS_URL ?? '',
  jobs: [hello],
});
await fleet.work();

const job = await fleet.enqueue(hello, { name: 'Ada' }, { key: 'hello-ada' });
for await (const { seq, event } of fleet.follow(job.id)) console.log(seq, event);
console.log(job.outcome, await job.result());

await fleet.close();
