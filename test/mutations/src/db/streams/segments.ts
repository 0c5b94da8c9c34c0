import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'append-accepted-fence',
    find: 'from batch b join accepted using (stream_id, fence)',
    replace: 'from batch b join accepted using (stream_id)',
    mechanism: 'of two runs of one process at one stream the one that has the fence is journalled alone',
    test: 'test/runs/fences.test.ts',
    title: 'the one at the fence appends, the other is refused, wherever it stands',
  },
  {
    name: 'append-answer-fence',
    find: 'return new Set(batches.filter((batch) => fences.get(batch.streamId) === batch.fence));',
    replace: 'return new Set(batches.filter((batch) => fences.has(batch.streamId)));',
    mechanism: 'of two runs of one process at one stream the one that has the fence is published alone',
    test: 'test/runs/fences.test.ts',
    title: 'the one at the fence appends, the other is refused, wherever it stands',
  },
  {
    name: 'state-row-terminal',
    find: 'const inRow = row.next_seq === null && isTerminalStatus(status);',
    replace: 'const inRow = (false as boolean) && isTerminalStatus(status);',
    mechanism: 'the terminal event of an eventless job is read from its row',
    test: 'test/journal/follower.test.ts',
    title: 'of a job that never emitted reads the terminal event from its row',
  },
  {
    name: 'odd-options',
    find: `j.options::text ~ '"publish" *: *"immediate"'`,
    replace: `coalesce(j.options ->> 'publish' = 'immediate', false)`,
    mechanism: 'a stream is read whatever the options of its row are',
    test: 'test/client/odd-rows.test.ts',
    title: '%s is shown',
  },
] satisfies readonly Change[];
