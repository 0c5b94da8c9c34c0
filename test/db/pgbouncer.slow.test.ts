import { pino } from 'pino';
import { describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { blockEventLoop } from '../helpers/block.ts';
import { journalOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { findProgram, startPgBouncer } from '../helpers/pgbouncer.ts';

const file = useDatabase();
const program = findProgram('pgbouncer');

describe.skipIf(program === undefined)('through PgBouncer in transaction mode', () => {
  it('a fleet claims, renews, streams, checkpoints, transacts, cancels and reconciles', async () => {
    const bouncer = await startPgBouncer(program as string, file.url);
    onTestFinished(() => bouncer.stop());
    const job = defineJob({
      name: 'bounced',
      input: z.object({ n: z.number() }),
      attempts: 2,
      backoff: { type: 'fixed', delayMs: 0 },
      lease: { ttlMs: 6_000 },
      async run({ n }, ctx) {
        for (let i = 0; i < 20; i++) await ctx.emit({ type: 'n', i });
        await ctx.checkpoint({ n });
        if (n % 10 === 0 && ctx.attempt === 1) throw new Error('once more');
        // Longer than the TTL: the thread's connection goes through the bouncer too.
        if (n === 1) blockEventLoop(9_000);
        if (n === 2)
          await new Promise((_resolve, reject) =>
            ctx.signal.addEventListener('abort', () => reject(ctx.signal.reason)),
          );
        await ctx.transaction(async (trx) => ctx.complete(trx, { n }));
      },
    });
    const said: string[] = [];
    const log = pino({ level: 'info' }, { write: (line: string) => void said.push(JSON.parse(line).msg) });
    const fleet = createTestFleet(bouncer.url, [job], { concurrency: 20, log });
    await fleet.work();
    const handles = await Promise.all(
      Array.from({ length: 60 }, (_, n) => fleet.enqueue(job, { n }, { key: `k${n}` })),
    );
    await expect.poll(async () => (await fleet.get(handles[2]?.id as string))?.status).toBe('running');
    await handles[2]?.cancel();
    const results = await Promise.allSettled(handles.map((handle) => handle.result({ timeoutMs: 60_000 })));
    expect(results.filter((result) => result.status === 'rejected')).toHaveLength(1);
    expect(results[2]).toMatchObject({ status: 'rejected', reason: { code: 'CANCELLED' } });
    for (const handle of handles) expect((await journalOf(file.db, handle.id)).length).toBeGreaterThanOrEqual(21);
    expect(await fleet.get(handles[1]?.id as string)).toMatchObject({ fence: 1, crashCount: 0 });
    const prepared = said.filter((text) => text.startsWith('Prepared statements do not last'));
    expect(prepared).toHaveLength(1);
  });
});
