import { describe, expect, it } from 'vitest';
import { chooseTicks } from '../../../src/client/schedules/choose-ticks.ts';
import { nextTick, type Timing, ticksAfter } from '../../../src/client/schedules/times.ts';
import type { DueSchedule } from '../../../src/db/schedules.ts';

const timing = (given: Partial<Timing>): Timing => ({
  cron: null,
  timeZone: given.cron === undefined ? null : 'Europe/Berlin',
  everyMs: null,
  anchorAt: 0,
  startAt: null,
  endAt: null,
  ...given,
});
const take = (of: Timing, from: string, count: number) =>
  ticksAfter(of, Date.parse(from))
    .take(count)
    .map((at) => new Date(at).toISOString().slice(0, 16))
    .toArray();

describe('cron in a time zone', () => {
  it('ticks once on the day that has no 2:30, an hour later', () => {
    expect(take(timing({ cron: '30 2 * * *' }), '2026-03-28T12:00Z', 2)).toEqual([
      '2026-03-29T01:30',
      '2026-03-30T00:30',
    ]);
  });

  it('ticks once on the day that has 2:30 twice', () => {
    expect(take(timing({ cron: '30 2 * * *' }), '2026-10-24T12:00Z', 2)).toEqual([
      '2026-10-25T00:30',
      '2026-10-26T01:30',
    ]);
  });

  it('ticks every hour through both', () => {
    expect(take(timing({ cron: '0 * * * *' }), '2026-10-24T23:30Z', 3)).toEqual([
      '2026-10-25T00:00',
      '2026-10-25T01:00',
      '2026-10-25T02:00',
    ]);
    expect(take(timing({ cron: '0 * * * *' }), '2026-03-28T23:30Z', 3)).toEqual([
      '2026-03-29T00:00',
      '2026-03-29T01:00',
      '2026-03-29T02:00',
    ]);
  });

  it('keeps to its start and its end', () => {
    const of = timing({
      cron: '@hourly',
      startAt: Date.parse('2026-01-01T05:00Z'),
      endAt: Date.parse('2026-01-01T06:00Z'),
    });
    expect(take(of, '2026-01-01T00:00Z', 5)).toEqual(['2026-01-01T05:00', '2026-01-01T06:00']);
    expect(nextTick(of, of.endAt as number)).toBeNull();
  });
});

it('an interval ticks at whole intervals after its anchor, the first at its start', () => {
  const of = timing({
    everyMs: 90_000,
    anchorAt: Date.parse('2026-01-01T00:00Z'),
    startAt: Date.parse('2026-01-01T00:00Z'),
  });
  expect(take(of, '2025-12-01T00:00Z', 3)).toEqual(['2026-01-01T00:00', '2026-01-01T00:01', '2026-01-01T00:03']);
});

describe('ticks that are late', () => {
  const MINUTE = 60_000;
  const due = (catchUp: DueSchedule['catchUp'], more: Partial<DueSchedule> = {}) =>
    ({
      ...timing({ everyMs: MINUTE }),
      nextAt: MINUTE,
      catchUp,
      overlap: 'allow',
      busy: false,
      ...more,
    }) as DueSchedule;

  it.each<[DueSchedule['catchUp'], number, number[], number]>([
    ['skip', 1, [1], 0],
    ['skip', 10, [10], 9],
    ['one', 10, [10], 9],
    ['all', 10, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0],
  ])('with %s after %d minutes', (catchUp, minutes, ticks, skipped) => {
    expect(chooseTicks(due(catchUp), minutes * MINUTE + 5_000)).toEqual({
      ticks: ticks.map((n) => n * MINUTE),
      skipped,
      nextAt: (minutes + 1) * MINUTE,
    });
  });

  it('with skip, one by itself is missed after a minute', () => {
    const daily = due('skip', { everyMs: 1_440 * MINUTE, nextAt: 1_440 * MINUTE });
    expect(chooseTicks(daily, 1_441 * MINUTE).ticks).toHaveLength(1);
    expect(chooseTicks(daily, 1_442 * MINUTE)).toMatchObject({ ticks: [], skipped: 1 });
  });

  it('with all, the last thousand are made, however long nobody looked', () => {
    let schedule = due('all');
    const now = 10_500 * MINUTE;
    const seen = { made: 0, skipped: 0, first: 0 };
    for (let round = 0; round < 100 && schedule.nextAt <= now; round++) {
      const { ticks, nextAt, skipped } = chooseTicks(schedule, now);
      if (seen.made === 0) seen.first = ticks[0] ?? 0;
      seen.made += ticks.length;
      seen.skipped += skipped;
      schedule = { ...schedule, nextAt: nextAt as number };
    }
    expect(seen).toEqual({ made: 1_000, skipped: 9_500, first: 9_501 * MINUTE });
  });

  it('ends with the last tick', () => {
    expect(chooseTicks(due('all', { endAt: 2 * MINUTE }), 10 * MINUTE)).toMatchObject({
      ticks: [MINUTE, 2 * MINUTE],
      nextAt: null,
    });
  });
});
