import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'board-sentence',
    find: 'sendProblem(error, request, reply, { error: title, message: detail });',
    replace: 'sendProblem(error, request, reply);',
    mechanism: 'a refusal is shown to the person',
    test: 'test/http/board-actions.test.ts',
    title: 'refuses a duplicate of a job of this fleet, whatever job its data name',
  },
  {
    name: 'board-problems',
    find: 'route.errorHandler = sendBoardProblem;',
    replace: 'void route;',
    mechanism: 'what the board would make a 500 of has an answer of its own',
    test: 'test/http/board-fuzz.test.ts',
    title: 'any mixture of them',
  },
] satisfies readonly Change[];
