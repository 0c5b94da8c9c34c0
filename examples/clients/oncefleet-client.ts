/** Typed by the job's definition: node --conditions=oncefleet-source examples/clients/oncefleet-client.ts */
import { createClient } from 'oncefleet/client';
import type { summarize } from './summarize-job.ts';

const client = createClient<{ summarize: typeof summarize }>({
  url: process.env.ONCEFLEET_URL ?? 'http://127.0.0.1:3000',
  token: process.env.ONCEFLEET_TOKEN ?? 'unused',
});
const job = await client.enqueue('summarize', { text: 'A text of oncefleet' }, { key: 'summary-of-client' });
for await (const { event } of client.follow(job)) console.log(event.type);
console.log((await client.result(job)).text);
