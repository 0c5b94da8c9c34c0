/** A reconciler whose process dies or freezes in the middle of a round, and another that takes over. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Reconciler } from '../../src/maintenance/reconciler.ts';
import { Runtime } from '../../src/runtime/runtime.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
/** Postgres takes the lock from one that has said nothing for so long, ms. */
const IDLE_LIMIT_MS = 4_000;

describe('the reconcilers of several processes', () => {
  it.each(['SIGKILL', 'SIGSTOP'] as const)(
    'take over within seconds from a process that %s stopped in the middle of a round',
    async (signal) => {
      const runtime = new Runtime({ databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: uniquePrefix() });
      onTestFinished(() => runtime.close());
      await expect.poll(() => runtime.redis.status).toBe('ready');
      const reconciler = new Reconciler({ runtime, jobs: new Map(), intervalMs: 1_000 });
      await sql`delete from oncefleet.reconciler_rounds`.execute(file.db);
      const holder = fork(fileURLToPath(new URL('../helpers/round-process.ts', import.meta.url)), [file.url], {
        execArgv: ['--conditions=oncefleet-source'],
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      });
      onTestFinished(async () => {
        const gone = holder.signalCode === null ? once(holder, 'exit') : undefined;
        holder.kill('SIGKILL');
        await gone;
      });
      await once(holder, 'message');
      // It says that it lives, and so keeps the lock for longer than Postgres would let a silent one.
      const heldUntil = performance.now() + IDLE_LIMIT_MS + 1_500;
      while (performance.now() < heldUntil) {
        expect(await reconciler.reconcile()).toBeUndefined();
        await delay(250);
      }
      const stoppedAt = performance.now();
      holder.kill(signal);
      await expect.poll(() => reconciler.reconcile(), { interval: 50 }).toBeDefined();
      // The kernel closes the connections of a process that is dead: nobody waits for the limit.
      if (signal === 'SIGKILL') expect(performance.now() - stoppedAt).toBeLessThan(IDLE_LIMIT_MS);
    },
  );
});
