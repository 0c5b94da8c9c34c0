import type { Change } from '../../mutation.ts';

const TEST = 'test/http/byte-budget.test.ts';
const REFUSED = 'is told BUSY once its share is full of %s; another is served, and so is it once they are gone';

export default [
  {
    name: 'budget-refuses',
    find: 'if (request.routeOptions.config.waitsForRoom !== true) request.hold?.requireRoom();',
    replace: '',
    mechanism: 'requests are refused before anything is read for them',
    test: TEST,
    title: REFUSED,
  },
  {
    name: 'budget-answers',
    find: "else if (typeof payload === 'string') count(request.hold, Buffer.byteLength(payload));",
    replace: "else if (typeof payload === 'string') count(request.hold, 0);",
    mechanism: 'an answer is counted until its client has read it',
    test: TEST,
    title: REFUSED,
  },
  {
    name: 'budget-freed',
    find: "reply.raw.once('close', () => request.hold?.close());",
    replace: '',
    mechanism: 'what a request held is free once it is over',
    test: TEST,
    title: REFUSED,
  },
  {
    name: 'budget-tenants',
    find: 'if (tenants) request.hold =',
    replace: 'if (request.hold === undefined) request.hold =',
    mechanism: 'a tenant pays for its own requests, not all that come from an address',
    test: TEST,
    title: REFUSED,
  },
] satisfies readonly Change[];
