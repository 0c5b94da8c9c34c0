/** `npm run bench -- journal`: how fast streams are written, followed live, and what they take on disk. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { choose, numberOption, rotate, wholeNumber } from '../lib/arguments.ts';
import type { Bench, BenchContext, BenchOptions, BenchResult } from '../lib/bench.ts';
import type { Bed } from '../lib/case.ts';
import { Places } from '../lib/databases.ts';
import { subjects } from '../streams/subjects/index.ts';
import type { Subject } from '../streams/subjects/subject.ts';
import { measureWriting } from './measure.ts';
import { type Finding, report } from './report.ts';

const SUBJECTS = ['insert', 'origin', 'copy', 'oncefleet-16', 'oncefleet'] as const;

const WHOLE = { rounds: 3, streams: [1, 10, 100, 1_000], warmUp: 10_000, share: 1 };
const QUICK = { rounds: 1, streams: [10], warmUp: 200, share: 0.02 };

interface Plan {
  rounds: number;
  /** How many streams are written at once. */
  streams: readonly number[];
  /** Events written before, so that code is compiled and connections are open. */
  warmUp: number;
  subjects: readonly Subject[];
  events(subject: Subject, streams: number): number;
  /** A folder for CPU profiles. */
  profile: string | undefined;
}

export const journalBench: Bench = {
  name: 'journal',
  summary: 'writing streams: ours against an INSERT per event, the algorithm it grew out of, and raw COPY',
  packages: ['ioredis', 'pg'],
  method: [
    'One process writes so many streams at once, events of 60 bytes (a delta of prose), each stream as fast as it is let; where events are published, another process follows all streams live and checks every seq. Warmed up, on an empty and analysed database; the clock stops when all is committed and the follower has all of it.',
    '',
    '- **INSERT per event**: one prepared statement and commit an event, 10 connections; nothing is published.',
    '- **origin**: what this journal grew out of, done faithfully: a buffer per stream, an event published and the publish awaited before the next, a multi-row insert when 16 events are there or one comes 100 ms after the last insert; 10 connections, and one prepared statement where the original begins, inserts by executemany and commits.',
    '- **raw COPY**: one COPY of one row an event for all streams together, one connection, one commit; nothing is published, and nobody could read any of it before the end.',
    '- **Oncefleet, flushed every 16 events**: the journal writer, with a handler that waits after each 16 events until they are durable, as the origin does.',
    '- **Oncefleet**: the journal writer as handlers use it: `emit` waits only when buffers are full.',
    '',
    'Every event of Oncefleet is committed, then published, then followed by the real follower. CPU is that of all the processes: writing, following, Postgres and Redis. Bytes on disk are those of tables, indexes and TOAST after the run and a vacuum, with the heads of streams, before anything is folded.',
  ].join('\n'),
  options: {
    subjects: { about: `only these, commas between: ${SUBJECTS.join(', ')}` },
    streams: { about: 'only so many streams at once, commas between' },
    rounds: { about: 'how often everything is repeated' },
    events: { about: 'events of one case' },
    profile: { about: 'a folder for CPU profiles of the writing and the following process (figures suffer)' },
  },
  plan,
};

function plan({ quick, own }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  const sizes = quick ? QUICK : WHOLE;
  const events = numberOption(own, 'events', undefined);
  const wanted: Plan = {
    rounds: numberOption(own, 'rounds', sizes.rounds),
    streams: own.streams?.split(',').map((text) => wholeNumber('streams', text)) ?? sizes.streams,
    warmUp: sizes.warmUp,
    subjects: choose(own.subjects, SUBJECTS).map((name) => subjects[name]),
    events: (subject, streams) => events ?? subject.events(streams) * sizes.share,
    profile: own.profile,
  };
  return (context) => run(context, wanted);
}

async function run({ services, signal, say }: BenchContext, wanted: Plan): Promise<BenchResult> {
  if (wanted.profile !== undefined) await mkdir(wanted.profile, { recursive: true });
  const places = new Places(services);
  const bed: Bed = { services, places, signal };
  const findings: Finding[] = [];
  try {
    for (let round = 0; round < wanted.rounds; round++) {
      for (const streams of wanted.streams) {
        for (const subject of rotate(wanted.subjects, round)) {
          const writing = await measureWriting(bed, subject, {
            streams,
            perStream: Math.max(1, Math.round(wanted.events(subject, streams) / streams)),
            warmUpPerStream: Math.max(1, Math.round(wanted.warmUp / streams)),
            profile:
              wanted.profile === undefined
                ? undefined
                : join(wanted.profile, `${subject.name}-${streams}-${round + 1}`),
          });
          findings.push({ round, subject, streams, writing });
          say(
            `round ${round + 1} of ${wanted.rounds}: ${subject.title}, ${streams} streams: ` +
              `${Math.round(writing.eventsPerSecond)} events/s, ${Math.round(writing.diskBytesPerEvent)} bytes/event`,
          );
        }
      }
    }
  } finally {
    await places.close();
  }
  return report(findings, wanted.rounds);
}
