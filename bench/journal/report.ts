import type { BenchResult } from '../lib/bench.ts';
import type { Chart } from '../lib/chart.ts';
import { round as digits, grouped, medianRatio, type Spread, spread } from '../lib/stats.ts';
import { formatNumber, rangeText, ratioText, type Table } from '../lib/table.ts';
import type { Subject, SubjectName } from '../streams/subjects/subject.ts';
import type { Writing } from './measure.ts';

export interface Finding {
  round: number;
  subject: Subject;
  streams: number;
  writing: Writing;
}

interface Group {
  subject: Subject;
  streams: number;
  events: number;
  rate: Spread;
  ofOrigin: number | undefined;
  ofCopy: number | undefined;
  /** Median of the rounds; undefined where there is none. */
  median(figure: keyof Writing): number | undefined;
}

export function report(findings: readonly Finding[], rounds: number): BenchResult {
  const groups = summarise(findings);
  const optional = (name: string, value: number | undefined) => (value === undefined ? {} : { [name]: digits(value) });
  return {
    rows: groups.map((group) => ({
      case: 'writing',
      subject: group.subject.name,
      streams: group.streams,
      events: group.events,
      rounds,
      eventsPerSecondMin: digits(group.rate.min),
      eventsPerSecondMedian: digits(group.rate.median),
      eventsPerSecondMax: digits(group.rate.max),
      ...optional('ofOriginRatio', group.ofOrigin),
      ...optional('ofCopyRatio', group.ofCopy),
      ...Object.fromEntries(FIGURES.flatMap((figure) => Object.entries(optional(figure, group.median(figure))))),
    })),
    tables: [rateTable(groups), costTable(groups)],
    charts: [{ name: 'journal', chart: rateChart(groups) }],
  };
}

const FIGURES = [
  'writerCpuMicrosPerEvent',
  'followerCpuMicrosPerEvent',
  'redisCpuMicrosPerEvent',
  'postgresCpuMicrosPerEvent',
  'walBytesPerEvent',
  'diskBytesPerEvent',
] as const satisfies (keyof Writing)[];

function summarise(findings: readonly Finding[]): Group[] {
  return [...grouped(findings, ({ streams, subject }) => `${streams} ${subject.name}`)].map((group) => {
    const [{ subject, streams, writing }] = group;
    const ratio = (to: SubjectName) =>
      to === subject.name
        ? undefined
        : medianRatio(
            group.map((one) => [one.round, one.writing.eventsPerSecond]),
            new Map(
              findings
                .filter((one) => one.subject.name === to && one.streams === streams)
                .map((one) => [one.round, one.writing.eventsPerSecond]),
            ),
          );
    return {
      subject,
      streams,
      events: writing.events,
      rate: spread(group.map((one) => one.writing.eventsPerSecond)),
      ofOrigin: ratio('origin'),
      ofCopy: ratio('copy'),
      median(figure) {
        const values = group.flatMap((one) => one.writing[figure] ?? []);
        return values.length === 0 ? undefined : spread(values).median;
      },
    };
  });
}

function rateTable(groups: readonly Group[]): Table {
  return {
    title: 'Writing',
    about: 'Events a second: median (least to most); and bytes on disk an event.',
    columns: ['', 'streams', 'events', 'events/s', 'least to most', 'of the origin', 'of COPY', 'bytes/event'],
    rows: groups.map((group) => [
      group.subject.title,
      formatNumber(group.streams),
      formatNumber(group.events),
      formatNumber(group.rate.median),
      rangeText(group.rate),
      ratioText(group.ofOrigin),
      ratioText(group.ofCopy),
      numberText(group.median('diskBytesPerEvent')),
    ]),
  };
}

function costTable(groups: readonly Group[]): Table {
  return {
    title: 'What an event costs',
    about: 'CPU time in microseconds an event, by process, and write-ahead log in bytes an event.',
    columns: ['', 'streams', 'writer µs', 'follower µs', 'Postgres µs', 'Redis µs', 'WAL bytes'],
    rows: groups.map((group) => [
      group.subject.title,
      formatNumber(group.streams),
      numberText(group.median('writerCpuMicrosPerEvent')),
      numberText(group.median('followerCpuMicrosPerEvent')),
      numberText(group.median('postgresCpuMicrosPerEvent')),
      numberText(group.median('redisCpuMicrosPerEvent')),
      numberText(group.median('walBytesPerEvent')),
    ]),
  };
}

function rateChart(groups: readonly Group[]): Chart {
  const counts = [...new Set(groups.map(({ streams }) => streams))].sort((a, b) => a - b);
  const titles = [...new Set(groups.map(({ subject }) => subject.title))];
  return {
    title: 'Events a second, one writing process',
    subtitle: 'Median of the rounds; the line on a bar goes from the least to the most.',
    groups: counts.map((count) => `${formatNumber(count)} ${count === 1 ? 'stream' : 'streams'}`),
    series: titles.map((name) => ({
      name,
      values: counts.map((count) => {
        const group = groups.find((one) => one.subject.title === name && one.streams === count);
        return group && { value: group.rate.median, min: group.rate.min, max: group.rate.max };
      }),
    })),
    unit: 'events/s',
  };
}

function numberText(value: number | undefined): string {
  return value === undefined ? '' : formatNumber(value);
}
