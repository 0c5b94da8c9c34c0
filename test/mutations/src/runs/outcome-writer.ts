import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'outcome-again',
    find: 'if (!isTransient(err) || signal.aborted) throw err;',
    replace: 'throw err;',
    mechanism: 'an outcome is tried again while Postgres is unreachable',
    test: 'test/runs/fences.test.ts',
    title: 'an outcome that finds Postgres away is tried again by the run that has it',
  },
  {
    name: 'silent-terminal',
    find: 'const events = own === undefined || eventless ? sealed.events',
    replace: 'const events = own === undefined ? sealed.events',
    mechanism: 'the terminal event of an eventless job stays in its row',
    test: 'test/journal/follower.test.ts',
    title: 'of a job that never emitted reads the terminal event from its row',
  },
  {
    name: 'refused-disowned',
    find: 'if (stream.immediate && stream.refused !== undefined) await this.#disown(claimed, stream);',
    replace: '',
    mechanism: 'the outcome of a run whose events were told and refused has a fence of its own',
    test: 'test/journal/immediate.test.ts',
    title: '%s event of which Postgres refuses takes it back from its readers, and fails at its seq',
  },
  {
    name: 'rerunnable',
    find: '...(options.keyless === true && spec.transparent ? { rerunnable: true } : {}),',
    replace: '',
    mechanism: 'a retry of a completed job without a key runs it again',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'runs it again where it has no key, and gives its outcome where it has one',
  },
  {
    name: 'settle-alone',
    find: `if (!isDropped(err) || status === 'completed' || batch === undefined) throw err;`,
    replace: 'throw err;',
    mechanism: 'a job whose stream takes no event ends by its row',
    test: 'test/runs/dropped-writes.test.ts',
    title: 'keeps the error of a handler that throws',
  },
  {
    name: 'interruption-bound',
    find: 'if (earlier >= MAX_LOST_CONNECTIONS) return undefined;',
    replace: '',
    mechanism: 'a job that always loses its connection ends',
    test: 'test/runs/lost-connections.slow.test.ts',
    title: 'is not interrupted more than ten times in a row: then it has failed',
  },
] satisfies readonly Change[];
