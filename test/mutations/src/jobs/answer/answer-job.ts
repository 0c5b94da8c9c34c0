import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'answer-redriven',
    find: 'if (ctx.fence === 1) return begun;',
    replace: 'if (ctx.attempt === 1) return begun;',
    mechanism: 'a redriven answer goes on where its text ends',
    test: 'test/jobs/answer/fleet.test.ts',
    title: 'a redriven answer goes on too',
  },
  {
    name: 'answer-begun',
    find: 'history: plan.history ?? [], begun: text, jobId',
    replace: "history: plan.history ?? [], begun: '', jobId",
    mechanism: 'a later attempt goes on where the text ends',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: 'goes on where the text ends when the model %s',
  },
  {
    name: 'answer-plan',
    find: 'const plan = resumed.success ? resumed.data : await makePlan',
    replace: 'const plan = await makePlan',
    mechanism: 'a later attempt rests on the same sources',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: 'writes the rest of an answer without a model, whatever has become of the collection',
  },
  {
    name: 'answer-lost-usage',
    find: "if (begun.uncounted === '') return begun.usage;",
    replace: 'return begun.usage;',
    mechanism: 'what a lost attempt has cost is told',
    test: 'test/jobs/answer/model/faults.test.ts',
    title: 'tells what an attempt has cost that was killed',
  },
] satisfies readonly Change[];
