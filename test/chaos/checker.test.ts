/** The checker must be able to fail: each assertion is shown histories in which it does not hold. */
import { describe, expect, it } from 'vitest';
import { ASSERTIONS, check, type Evidence, type Transcript, type Violation } from '../../chaos/checker.ts';
import type { FinalJob } from '../../chaos/final-state.ts';
import type { Entry, HandlerEntry, Kind, ProducerEntry } from '../../chaos/history.ts';
import { POISON_CRASHES } from '../../chaos/settings.ts';

type Assertion = Violation['assertion'];

/** A run in which all went well, one job of each kind. Tests change it before they check it. */
function goodRun(): Evidence & {
  entries: Entry[];
  transcripts: Transcript[];
  leftovers: string[];
  oddities: string[];
} {
  let at = 0;
  const entries: Entry[] = [];
  const note = (entry: ProducerEntry | HandlerEntry) => entries.push({ at: at++, pid: 1, ...entry } as Entry);
  const run = { entries, transcripts: [] as Transcript[], leftovers: [], oddities: [] };
  const state: Evidence['state'] = { jobs: [], attempts: [], heads: [], segments: [], effects: [] };

  const accept = (kind: Kind, id: string, input: object = {}) => {
    note({ type: 'accepted', key: `k-${kind}`, kind, id, outcome: 'created', input });
    note({ type: 'accepted', key: `k-${kind}`, kind, id, outcome: 'attached', input });
  };
  const finish = (
    kind: Kind,
    id: string,
    outcome: Partial<FinalJob> & { status: string },
    fences: { fence: number; events: { type: string }[] }[],
  ) => {
    const fence = fences.at(-1)?.fence ?? 1;
    const job: FinalJob = {
      id,
      key: `k-${kind}`,
      name: `chaos-${kind}`,
      fence,
      crashCount: fence - 1,
      errorCount: 0,
      interruptionCount: 0,
      deferralCount: 0,
      result: null,
      error: null,
      ...outcome,
    };
    state.jobs.push(job);
    let seq = 0;
    const jsons: string[] = [];
    for (const { fence, events } of fences) {
      state.segments.push({
        jobId: id,
        firstSeq: seq,
        lastSeq: seq + events.length - 1,
        fence,
        events: JSON.stringify(events),
      });
      seq += events.length;
      jsons.push(...events.map((event) => JSON.stringify(event)));
    }
    state.heads.push({ jobId: id, fence, nextSeq: seq, state: 'closed' });
    run.transcripts.push({
      reader: `r-${kind}`,
      jobId: id,
      seqs: jsons.map((_, i) => i),
      jsons,
      finished: true,
      connections: 2,
    });
    const error = job.error === null ? null : (JSON.parse(job.error) as { code: string }).code;
    for (let i = 0; i < 2; i++)
      note({ type: 'outcome', key: job.key, id, status: job.status, result: job.result ?? 'null', error });
  };
  const start = (kind: Kind, jobId: string, fence: number) =>
    note({ type: 'start', jobId, key: `k-${kind}`, kind, fence });

  accept('effect', 'e');
  start('effect', 'e', 1);
  state.effects.push({ key: 'k-effect', step: 1, jobId: 'e', fence: 1 });
  note({ type: 'effect', jobId: 'e', key: 'k-effect', fence: 1, step: 1 });
  finish('effect', 'e', { status: 'completed', result: '{"by":"1"}' }, [
    { fence: 1, events: [{ type: 'about-to' }, { type: 'end', result: { by: '1' } } as { type: string }] },
  ]);

  accept('ledger', 'l', { steps: 2 });
  for (const fence of [1, 2]) {
    start('ledger', 'l', fence);
    state.effects.push({ key: 'k-ledger', step: fence, jobId: 'l', fence });
    note({ type: 'effect', jobId: 'l', key: 'k-ledger', fence, step: fence });
  }
  finish('ledger', 'l', { status: 'completed', result: '{"steps":2}' }, [
    { fence: 1, events: [{ type: 'step' }] },
    {
      fence: 2,
      events: [{ type: 'attempt' }, { type: 'step' }, { type: 'end', result: { steps: 2 } } as { type: string }],
    },
  ]);

  accept('stream', 's', { events: 3 });
  start('stream', 's', 1);
  note({ type: 'flushed', jobId: 's', fence: 1, events: 2 });
  start('stream', 's', 2);
  const number = (n: number) => ({ type: 'number', n });
  finish('stream', 's', { status: 'completed', result: '1' }, [
    { fence: 1, events: [number(0), number(1)] },
    {
      fence: 2,
      events: [
        { type: 'attempt', resumed: true, from: 1 } as { type: string },
        number(1),
        number(2),
        { type: 'end', result: 1 } as { type: string },
      ],
    },
  ]);

  accept('hang', 'h');
  start('hang', 'h', 1);
  finish('hang', 'h', { status: 'cancelled', error: '{"code":"CANCELLED","message":""}' }, [
    { fence: 1, events: [{ type: 'waiting' }, { type: 'cancelled' }] },
  ]);

  accept('poison', 'p');
  for (let fence = 1; fence <= POISON_CRASHES + 1; fence++) start('poison', 'p', fence);
  const poisoned = { code: 'POISONED', message: '' };
  finish('poison', 'p', { status: 'failed', error: JSON.stringify(poisoned) }, [
    { fence: POISON_CRASHES + 2, events: [{ type: 'error', error: poisoned } as { type: string }] },
  ]);

  // Silent: its terminal event is in its row.
  accept('block', 'b');
  finish('block', 'b', { status: 'completed', result: null }, []);
  state.heads.pop();
  run.transcripts.splice(-1, 1, {
    reader: 'r-block',
    jobId: 'b',
    seqs: [0],
    jsons: ['{"type":"end"}'],
    finished: true,
    connections: 1,
  });
  return { ...run, state };
}

const jobOf = (run: Evidence, id: string) => run.state.jobs.find((job) => job.id === id) as FinalJob;
const readerOf = (run: Evidence, id: string) => run.transcripts.find(({ jobId }) => jobId === id) as Transcript;
const segmentsOf = (run: Evidence, id: string) =>
  run.state.segments.filter(({ jobId }) => jobId === id) as [
    Evidence['state']['segments'][number],
    Evidence['state']['segments'][number],
  ];
const headOf = (run: Evidence, id: string) =>
  run.state.heads.find(({ jobId }) => jobId === id) as Evidence['state']['heads'][number];

type Run = ReturnType<typeof goodRun>;

const DOCTORED: readonly { assertion: Assertion; what: string; doctor(run: Run): void }[] = [
  {
    assertion: 'every accepted key has one job, and its outcome',
    what: 'an accepted job is not there',
    doctor: (run) => void run.state.jobs.splice(run.state.jobs.indexOf(jobOf(run, 'e')), 1),
  },
  {
    assertion: 'every accepted key has one job, and its outcome',
    what: 'a duplicate got a job of its own',
    doctor: (run) => Object.assign(run.entries[1] as Entry, { id: 'other' }),
  },
  {
    assertion: 'every accepted key has one job, and its outcome',
    what: 'one key was created twice',
    doctor: (run) => Object.assign(run.entries[1] as Entry, { outcome: 'created' }),
  },
  {
    assertion: 'every accepted key has one job, and its outcome',
    what: 'a job that should complete failed',
    doctor: (run) => Object.assign(jobOf(run, 'l'), { status: 'failed', error: '{"code":"INTERNAL"}' }),
  },
  {
    assertion: 'committed effects are there once',
    what: 'an effect is there twice',
    doctor: (run) => void run.state.effects.push({ key: 'k-effect', step: 1, jobId: 'e', fence: 2 }),
  },
  {
    assertion: 'committed effects are there once',
    what: 'a step is missing',
    doctor: (run) => void run.state.effects.splice(1, 1),
  },
  {
    assertion: 'committed effects are there once',
    what: 'an effect that was committed is gone, and another attempt wrote it again',
    doctor: (run) => Object.assign(run.state.effects[0] as object, { fence: 2 }),
  },
  {
    assertion: 'committed effects are there once',
    what: 'a zombie wrote after its successor',
    doctor: (run) => {
      Object.assign(run.state.effects[1] as object, { fence: 2 });
      Object.assign(run.state.effects[2] as object, { fence: 1 });
    },
  },
  {
    assertion: 'every duplicate got the same outcome',
    what: 'a duplicate was given another result',
    doctor: (run) =>
      Object.assign(run.entries.findLast((entry) => entry.type === 'outcome' && entry.id === 'e') as Entry, {
        result: '{"by":"2"}',
      }),
  },
  {
    assertion: 'every duplicate got the same outcome',
    what: 'a duplicate was told of another status',
    doctor: (run) =>
      Object.assign(run.entries.find((entry) => entry.type === 'outcome' && entry.id === 'h') as Entry, {
        status: 'completed',
      }),
  },
  {
    assertion: 'every duplicate got the same outcome',
    what: 'a duplicate was given another error',
    doctor: (run) =>
      Object.assign(run.entries.find((entry) => entry.type === 'outcome' && entry.id === 'p') as Entry, {
        error: 'INTERNAL',
      }),
  },
  {
    assertion: 'every stream is contiguous, with one terminal event at its end',
    what: 'there is a gap',
    doctor: (run) => Object.assign(segmentsOf(run, 's')[1], { firstSeq: 3, lastSeq: 6 }),
  },
  {
    assertion: 'every stream is contiguous, with one terminal event at its end',
    what: 'a segment says the wrong length',
    doctor: (run) => Object.assign(segmentsOf(run, 's')[1], { lastSeq: 7 }),
  },
  {
    assertion: 'every stream is contiguous, with one terminal event at its end',
    what: 'the last event is no terminal one',
    doctor: (run) => {
      segmentsOf(run, 'h')[0].events = '[{"type":"waiting"},{"type":"waiting"}]';
    },
  },
  {
    assertion: 'every stream is contiguous, with one terminal event at its end',
    what: 'there are two terminal events',
    doctor: (run) => {
      segmentsOf(run, 'h')[0].events = '[{"type":"cancelled"},{"type":"cancelled"}]';
    },
  },
  {
    assertion: 'every stream is contiguous, with one terminal event at its end',
    what: 'the terminal event tells another result than the row',
    doctor: (run) => {
      segmentsOf(run, 'e')[0].events = '[{"type":"about-to"},{"type":"end","result":{"by":"2"}}]';
    },
  },
  {
    assertion: 'every stream is contiguous, with one terminal event at its end',
    what: 'the stream is still open',
    doctor: (run) => Object.assign(headOf(run, 'l'), { state: 'open' }),
  },
  {
    assertion: 'every stream is contiguous, with one terminal event at its end',
    what: 'an old fence wrote after a new one',
    doctor: (run) => {
      segmentsOf(run, 's')[0].fence = 3;
    },
  },
  {
    assertion: 'every stream is contiguous, with one terminal event at its end',
    what: 'folded, an event is there twice',
    doctor: (run) => {
      const [, second] = segmentsOf(run, 's');
      second.events = second.events.replace('"from":1', '"from":2');
    },
  },
  {
    assertion: 'what a run was told is committed is in the journal',
    what: 'events that flush() had committed are gone',
    doctor: (run) => Object.assign(run.entries.find(({ type }) => type === 'flushed') as Entry, { events: 3 }),
  },
  {
    assertion: 'every follower read what the journal holds, to its end',
    what: 'a follower hangs',
    doctor: (run) => Object.assign(readerOf(run, 's'), { finished: false }),
  },
  {
    assertion: 'every follower read what the journal holds, to its end',
    what: 'a follower missed an event',
    doctor: (run) => {
      readerOf(run, 's').seqs.splice(2, 1);
      readerOf(run, 's').jsons.splice(2, 1);
    },
  },
  {
    assertion: 'every follower read what the journal holds, to its end',
    what: 'a follower was given an event twice',
    doctor: (run) => {
      readerOf(run, 's').seqs.splice(2, 0, 1);
      readerOf(run, 's').jsons.splice(2, 0, '{"type":"number","n":1}');
    },
  },
  {
    assertion: 'every follower read what the journal holds, to its end',
    what: 'a follower was given another event',
    doctor: (run) => {
      readerOf(run, 's').jsons[1] = '{"type":"number","n":7}';
    },
  },
  {
    assertion: 'every follower read what the journal holds, to its end',
    what: 'a follower was told that it is over too soon',
    doctor: (run) => {
      readerOf(run, 's').seqs.pop();
      readerOf(run, 's').jsons.pop();
    },
  },
  {
    assertion: 'every follower read what the journal holds, to its end',
    what: 'a follower was turned away',
    doctor: (run) => void run.entries.push({ at: 99, pid: 1, type: 'lost', reader: 'r', jobId: 's', what: '404' }),
  },
  {
    assertion: 'poison stops',
    what: 'a poison job was started once too often',
    doctor: (run) =>
      void run.entries.push({ at: 99, pid: 1, type: 'start', jobId: 'p', key: 'k-poison', kind: 'poison', fence: 9 }),
  },
  {
    assertion: 'poison stops',
    what: 'a poison job failed as something else',
    doctor: (run) => Object.assign(jobOf(run, 'p'), { error: '{"code":"TIMEOUT"}' }),
  },
  {
    assertion: 'no fence runs twice',
    what: 'two handlers started at one fence',
    doctor: (run) =>
      void run.entries.push({ at: 99, pid: 2, type: 'start', jobId: 'l', key: 'k-ledger', kind: 'ledger', fence: 2 }),
  },
  {
    assertion: 'nothing is left without an outcome',
    what: 'a job is still running',
    doctor: (run) => Object.assign(jobOf(run, 's'), { status: 'running' }),
  },
  {
    assertion: 'nothing is leaked',
    what: 'a connection is left',
    doctor: (run) => void run.leftovers.push('a connection outlived its process'),
  },
  {
    assertion: 'nothing ends or answers as no fault explains',
    what: 'a process ended by itself',
    doctor: (run) => void run.oddities.push('worker-a ended by itself with 70'),
  },
  {
    assertion: 'nothing ends or answers as no fault explains',
    what: 'the API answered something odd',
    doctor: (run) => void run.entries.push({ at: 99, pid: 1, type: 'odd', key: 'k', what: 'enqueue answered 409' }),
  },
];

describe('the checker', () => {
  it('finds nothing wrong with a run in which all went well', () => {
    expect(check(goodRun())).toEqual([]);
  });

  it.each(DOCTORED)('says that it does not hold: $assertion ($what)', ({ assertion, doctor }) => {
    const run = goodRun();
    doctor(run);
    expect(check(run).map((violation) => violation.assertion)).toContain(assertion);
  });

  it('has been seen to fail in each of its assertions', () => {
    expect([...new Set(DOCTORED.map(({ assertion }) => assertion))].sort()).toEqual([...ASSERTIONS].sort());
  });
});
