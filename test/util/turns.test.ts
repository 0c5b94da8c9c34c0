import { describe, expect, it } from 'vitest';
import { FairTurns, Turns } from '../../src/util/turns.ts';

it('are taken in the order in which they were asked for, one at a time', async () => {
  const turns = new Turns();
  const seen: string[] = [];
  const ends: (() => void)[] = [];
  const taking = ['a', 'b', 'c'].map(async (name) => {
    const end = await turns.take(undefined);
    seen.push(name);
    ends.push(end);
  });
  await taking[0];
  for (let n = 1; n <= 3; n++) {
    expect(seen).toEqual(['a', 'b', 'c'].slice(0, n));
    ends[n - 1]?.();
    await taking[n];
  }
});

it('pass to the next one where somebody gives up waiting', async () => {
  const turns = new Turns();
  const end = await turns.take(undefined);
  const stop = new AbortController();
  const given = turns.take(stop.signal);
  const last = turns.take(undefined);
  stop.abort(new Error('left'));
  await expect(given).rejects.toThrow('left');
  await expect(turns.take(AbortSignal.abort(new Error('gone')))).rejects.toThrow('gone');
  end();
  (await last)();
  (await turns.take(undefined))();
});

describe('fair turns', () => {
  it('are taken by turns by those who ask by different keys, each in its own order', async () => {
    const turns = new FairTurns();
    const end = await turns.take('a');
    const order: string[] = [];
    const takers = ['a1', 'a2', 'a3', 'b1', 'c1', 'b2'].map(async (name) => {
      const endTurn = await turns.take(name[0] as string);
      order.push(name);
      endTurn();
    });
    end();
    await Promise.all(takers);
    expect(order).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3']);
    (await turns.take('a'))();
  });
});
