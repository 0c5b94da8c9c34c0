/**
 * A job of a producer that knows BullMQ and nothing of Oncefleet, in any language: the data is the input, with a key.
 * In Python: `await Queue("summarize", {"prefix": "oncefleet"}).add("summarize", {"text": "…", "idempotencyKey": "…"})`
 */
import { Queue } from 'bullmq';

const queue = new Queue('summarize', {
  connection: { url: process.env.REDIS_URL ?? 'redis://127.0.0.1:6379' },
  prefix: process.env.ONCEFLEET_PREFIX ?? 'oncefleet',
});
// Twice, as after a timeout: it runs once.
for (let n = 0; n < 2; n++)
  await queue.add('summarize', { text: 'A text of bullmq', idempotencyKey: 'summary-of-bullmq' });
await queue.close();
