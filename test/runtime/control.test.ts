import { Cluster } from 'ioredis';
import { expect, it, onTestFinished, vi } from 'vitest';
import { silentLogger } from '../../src/log.ts';
import { Control } from '../../src/runtime/control.ts';

/** A Cluster that connects to nothing; `subscribed` are the channels it was asked for. */
function stage(answer: () => Promise<unknown>) {
  const cluster = new Cluster([{ host: '127.0.0.1', port: 1 }], { lazyConnect: true });
  onTestFinished(() => cluster.disconnect());
  const subscribed = vi.spyOn(cluster, 'ssubscribe').mockImplementation(answer);
  const control = new Control({ publish: cluster, subscribe: cluster, prefix: 'p', log: silentLogger() });
  return { cluster, subscribed, control };
}

const ONCE = [['p:control']];

it('of a Cluster is subscribed whenever its subscribers are ready: before the process listens, or after', () => {
  const early = stage(async () => 1);
  early.cluster.emit('subscribersReady');
  expect(early.subscribed.mock.calls).toEqual([]);
  early.control.listen(() => undefined);
  expect(early.subscribed.mock.calls).toEqual(ONCE);

  const late = stage(async () => 1);
  late.control.listen(() => undefined);
  expect(late.subscribed.mock.calls).toEqual([]);
  late.cluster.emit('subscribersReady');
  expect(late.subscribed.mock.calls).toEqual(ONCE);
});

it('is subscribed again after a connection that was lost, and not before', () => {
  const { cluster, subscribed, control } = stage(async () => 1);
  cluster.emit('subscribersReady');
  cluster.emit('close');
  control.listen(() => undefined);
  expect(subscribed.mock.calls).toEqual([]);
  cluster.emit('subscribersReady');
  expect(subscribed.mock.calls).toEqual(ONCE);
});

it('is asked for until Redis confirms', async () => {
  const answers = [Promise.reject(new Error('no node has the slot')), Promise.resolve(1)];
  const { cluster, subscribed, control } = stage(() => answers.shift() as Promise<unknown>);
  cluster.emit('subscribersReady');
  control.listen(() => undefined);
  await expect.poll(() => subscribed.mock.calls, { timeout: 15_000 }).toEqual([...ONCE, ...ONCE]);
});
