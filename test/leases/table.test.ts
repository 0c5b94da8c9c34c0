import { Worker } from 'node:worker_threads';
import { expect, it, onTestFinished } from 'vitest';
import { LeaseTable } from '../../src/leases/table.ts';
import { uuidV7 } from '../../src/util/uuid.ts';

const lease = (overrides: { jobId?: string; fence?: number; ttlMs?: number; claimSentAt?: bigint } = {}) => ({
  jobId: uuidV7(),
  fence: 1,
  ttlMs: 60_000,
  claimSentAt: process.hrtime.bigint(),
  ...overrides,
});

it('has what is held, and nothing that was let go', () => {
  const table = new LeaseTable();
  const other = new LeaseTable(table.buffer);
  expect(other.read()).toEqual([]);
  const [first, second] = [lease({ fence: 2 ** 40 }), lease({ ttlMs: 0.5 })];
  const slot = table.hold(first);
  table.hold(second);
  expect(other.read()).toMatchObject([first, second]);
  table.release(slot);
  expect(other.read()).toMatchObject([second]);
});

it('names each taking of a slot anew', () => {
  const table = new LeaseTable();
  const again = lease();
  const generations = Array.from({ length: 3 }, () => {
    const slot = table.hold(again);
    const [entry] = table.read();
    table.release(slot);
    return entry?.generation;
  });
  expect(new Set(generations).size).toBe(3);
});

it('grows with the number of leases', () => {
  const table = new LeaseTable();
  const other = new LeaseTable(table.buffer);
  const leases = Array.from({ length: 3_000 }, (_, i) => lease({ fence: i + 1 }));
  const slots = leases.map((one) => table.hold(one));
  expect(other.read()).toMatchObject(leases);
  for (const slot of slots) table.release(slot);
  expect(other.read()).toEqual([]);
});

it('is read whole or not at all while the other side writes', async () => {
  const table = new LeaseTable();
  const stop = new Int32Array(new SharedArrayBuffer(4));
  // Both halves of an entry say the same number, so one made of two leases gives itself away.
  const worker = new Worker(
    `const { workerData, parentPort } = require('node:worker_threads');
     import(workerData.file).then(({ LeaseTable }) => {
       const table = new LeaseTable(workerData.buffer);
       let read = 0, torn = 0;
       parentPort.postMessage('ready');
       while (Atomics.load(workerData.stop, 0) === 0) {
         for (const { jobId, fence } of table.read()) {
           read++;
           if (Number('0x' + jobId.slice(-12)) !== fence) torn++;
         }
       }
       parentPort.postMessage({ read, torn });
     });`,
    {
      eval: true,
      workerData: {
        file: new URL('../../src/leases/table.ts', import.meta.url).href,
        buffer: table.buffer,
        stop,
      },
    },
  );
  onTestFinished(() => void worker.terminate());
  const messages: unknown[] = [];
  worker.on('message', (message) => messages.push(message));
  await expect.poll(() => messages).toEqual(['ready']);
  const start = uuidV7().slice(0, -12);
  for (let n = 1; n <= 1_000_000; n++)
    table.release(table.hold(lease({ jobId: start + n.toString(16).padStart(12, '0'), fence: n })));
  Atomics.store(stop, 0, 1);
  await expect.poll(() => messages.length).toBe(2);
  const seen = messages[1] as { read: number; torn: number };
  expect(seen.read).toBeGreaterThan(0);
  expect(seen.torn).toBe(0);
});
