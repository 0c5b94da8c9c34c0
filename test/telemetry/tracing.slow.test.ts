/** One trace across processes. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect, it, onTestFinished } from 'vitest';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { startTracing, type Told } from './spans.ts';
import { flaky } from './trace-process.ts';

const file = useDatabase();
const PROCESS = fileURLToPath(new URL('trace-process.ts', import.meta.url));

it('one trace over enqueue, an attempt that fails, one in another process, and the follower', async () => {
  const tracing = startTracing();
  onTestFinished(() => tracing.stop());
  const prefix = uniquePrefix();
  const fleet = createTestFleet(file.url, [flaky], { prefix });
  const handle = await fleet.enqueue(flaky, {});
  const following = (async () => {
    const types: string[] = [];
    for await (const { event } of handle.events()) types.push((event as { type: string }).type);
    return types;
  })();
  const runs: Told[] = [];
  for (let n = 0; n < 2; n++) {
    const options = JSON.stringify({ databaseUrl: file.url, redisUrl: testRedisUrl(), prefix });
    const child = fork(PROCESS, [options]);
    onTestFinished(() => void child.kill('SIGKILL'));
    child.on('message', ({ span }: { span: Told }) => void runs.push(span));
    await once(child, 'exit');
  }
  expect(await following).toEqual(['retry', 'attempt', 'end']);
  const [enqueue, follow] = tracing.spans();
  expect(enqueue).toMatchObject({ name: 'enqueue flaky', parentId: undefined });
  const child = { traceId: enqueue?.traceId, parentId: enqueue?.spanId };
  expect(follow).toMatchObject({ ...child, name: 'follow flaky' });
  expect(runs).toMatchObject([
    { ...child, name: 'run flaky', isError: true, attributes: { 'oncefleet.attempt': 1 } },
    { ...child, name: 'run flaky', isError: false, attributes: { 'oncefleet.attempt': 2 } },
  ]);
  expect(new Set([process.pid, ...runs.map(({ pid }) => pid)]).size).toBe(3);
}, 120_000);
