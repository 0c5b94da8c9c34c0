import { expect, it } from 'vitest';
import { Stop } from '../../src/runs/stop.ts';

it('tells its listener and its signal, whichever was there first, of the first reason', () => {
  const stop = new Stop();
  const told: unknown[] = [];
  const early = stop.signal;
  stop.listen(() => told.push(stop.reason));
  const first = new Error('first');
  stop.abort(first);
  stop.abort(new Error('second'));
  expect(told).toEqual([first]);
  expect(early.reason).toBe(first);
  expect(stop.signal).toBe(early);
});

it('tells nobody who has stopped listening', () => {
  const stop = new Stop();
  let told = false;
  stop.listen(() => {
    told = true;
  });
  stop.unlisten();
  stop.abort(new Error('late'));
  expect(told).toBe(false);
});

it('is found aborted by a signal and a listener that come late', () => {
  const stop = new Stop();
  const reason = new Error('early');
  stop.abort(reason);
  const told: unknown[] = [];
  stop.listen(() => told.push(stop.reason));
  expect(told).toEqual([reason]);
  expect(stop.signal.aborted).toBe(true);
  expect(stop.signal.reason).toBe(reason);
  expect(() => stop.throwIfAborted()).toThrow(reason);
});
