import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { HandlerSlots, Slot } from '../../src/runs/handler-slots.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function stage(concurrency: number) {
  const deliveries: number[] = [];
  const slots = new HandlerSlots({ concurrency, setDeliveries: (count) => deliveries.push(count) });
  const run = (handlerMs: number) => {
    expect(slots.tryTake()).toBe(true);
    slots.release(handlerMs);
  };
  return { slots, deliveries, run };
}

it('gives no more slots than there are, and the next one to who waits longest', async () => {
  const { slots } = stage(2);
  expect([slots.tryTake(), slots.tryTake(), slots.tryTake()]).toEqual([true, true, false]);
  const order: string[] = [];
  const first = slots.wait().then((taken) => order.push(`first ${taken}`));
  const second = slots.wait().then((taken) => order.push(`second ${taken}`));
  slots.release(1);
  await first;
  expect(slots.tryTake()).toBe(false);
  slots.release(1);
  await second;
  expect(order).toEqual(['first true', 'second true']);
  slots.release(undefined);
  expect(slots.tryTake()).toBe(true);
});

it('takes jobs in reserve once handlers have shown that they are short, and no longer when they are not', () => {
  const { deliveries, run } = stage(10);
  for (let i = 0; i < 7; i++) run(1);
  expect(deliveries).toEqual([]);
  run(1);
  expect(deliveries).toEqual([30]);
  run(1_000);
  expect(deliveries).toEqual([30, 10]);
});

it.each([
  [1, 3],
  [100, 300],
  [500, 700],
])('with %i handlers at once holds %i jobs at most', (concurrency, most) => {
  const { deliveries, run } = stage(concurrency);
  for (let i = 0; i < 8; i++) run(1);
  expect(deliveries).toEqual([most]);
});

it('hands back what has waited too long, takes nothing in reserve then, and keeps what came later', async () => {
  const { slots, deliveries, run } = stage(1);
  for (let i = 0; i < 8; i++) run(1);
  expect(slots.tryTake()).toBe(true);
  const early = slots.wait();
  await vi.advanceTimersByTimeAsync(60);
  let late: boolean | undefined;
  const later = slots.wait().then((taken) => {
    late = taken;
  });
  await vi.advanceTimersByTimeAsync(50);
  expect(await early).toBe(false);
  expect(deliveries).toEqual([3, 1]);
  expect(late).toBeUndefined();
  slots.release(1);
  await later;
  expect(late).toBe(true);
  expect(deliveries).toEqual([3, 1]);
});

it('hands everything back when closed, and gives no slot any more', async () => {
  const { slots } = stage(1);
  expect(slots.tryTake()).toBe(true);
  const waiting = slots.wait();
  slots.close();
  expect(await waiting).toBe(false);
  slots.release(1);
  expect(slots.tryTake()).toBe(false);
  expect(await slots.wait()).toBe(false);
});

it('hands back the newest first, for the oldest to stand at the head of its queue', async () => {
  const { slots } = stage(1);
  expect(slots.tryTake()).toBe(true);
  const order: string[] = [];
  const waits = ['a', 'b', 'c'].map((name) => slots.wait().then(() => order.push(name)));
  await vi.advanceTimersByTimeAsync(150);
  await Promise.all(waits);
  expect(order).toEqual(['c', 'b', 'a']);
});

it('takes the slot of a delivery back once', () => {
  const { slots } = stage(1);
  const slot = new Slot(slots);
  expect([slot.tryTake(), slot.tryTake()]).toEqual([true, true]);
  slot.letGo(1);
  slot.letGo();
  expect([slots.tryTake(), slots.tryTake()]).toEqual([true, false]);
});
