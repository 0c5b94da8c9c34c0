import { describe, expect, test, vi } from 'vitest';
import { silentLogger } from '../../src/log.ts';
import { Lifecycle } from '../../src/util/lifecycle.ts';

const create = (limitMs = 5_000, hurryLimitMs = 5_000) => new Lifecycle({ log: silentLogger(), limitMs, hurryLimitMs });

describe('Lifecycle', () => {
  test('closes in reverse order, each closer after the one before has ended', async () => {
    const lifecycle = create();
    const order: string[] = [];
    const gate = Promise.withResolvers<void>();
    await lifecycle.add('first', () => order.push('first'));
    await lifecycle.add('second', async () => {
      await gate.promise;
      order.push('second');
    });
    const closed = lifecycle.close();
    expect(order).toEqual([]);
    gate.resolve();
    await closed;
    expect(order).toEqual(['second', 'first']);
  });

  test('close works before anything opened, twice and concurrently; each closer runs once', async () => {
    await create().close();
    const lifecycle = create();
    const closer = vi.fn();
    await lifecycle.add('it', closer);
    await Promise.all([lifecycle.close(), lifecycle.close()]);
    await lifecycle.close();
    expect(closer).toHaveBeenCalledTimes(1);
  });

  test('what is opened after closing began is closed at once', async () => {
    const lifecycle = create();
    await lifecycle.close();
    const closer = vi.fn();
    await lifecycle.add('late', closer);
    expect(closer).toHaveBeenCalledTimes(1);
  });

  test('a closer that throws is reported and keeps no other from running', async () => {
    const lifecycle = create();
    const other = vi.fn();
    await lifecycle.add('other', other);
    await lifecycle.add('bad', () => {
      throw new Error('no');
    });
    await expect(lifecycle.close()).rejects.toMatchObject({ code: 'INTERNAL' });
    expect(other).toHaveBeenCalledTimes(1);
  });

  test('hurry aborts the signal that closers got', async () => {
    const lifecycle = create();
    await lifecycle.add(
      'slow',
      (signal) => new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve())),
    );
    const closed = lifecycle.close();
    lifecycle.hurry();
    await closed;
  });

  test('hurry before close makes the close a hurried one', async () => {
    const lifecycle = create();
    const seen: boolean[] = [];
    await lifecycle.add('it', (signal) => seen.push(signal.aborted));
    lifecycle.hurry();
    await lifecycle.close();
    expect(seen).toEqual([true]);
  });

  test('a closer that hangs ends in an error that names it, at the limit', async () => {
    const lifecycle = create(30);
    await lifecycle.add('the pool', () => new Promise(() => {}));
    await expect(lifecycle.close()).rejects.toMatchObject({ message: 'Closing the pool took longer than 30 ms' });
  });

  test('after hurry the shorter limit holds', async () => {
    const lifecycle = create(60_000, 30);
    await lifecycle.add('the pool', () => new Promise(() => {}));
    const closed = lifecycle.close();
    lifecycle.hurry();
    await expect(closed).rejects.toMatchObject({ message: 'Closing the pool took longer than 30 ms' });
  });
});
