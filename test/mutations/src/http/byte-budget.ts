import type { Change } from '../../mutation.ts';

const TEST = 'test/http/byte-budget.test.ts';
const REFUSED = 'is told BUSY once its share is full of %s; another is served, and so is it once they are gone';

export default [
  {
    name: 'budget-share',
    find: '< this.#bytes * SHARE',
    replace: '< this.#bytes',
    mechanism: 'a tenant has half of the budget at the most',
    test: TEST,
    title: 'gives a tenant half of it, and all tenants all of it',
  },
  {
    name: 'budget-whole',
    find: 'this.#held < this.#bytes &&',
    replace: '',
    mechanism: 'all tenants together have the budget',
    test: TEST,
    title: 'gives a tenant half of it, and all tenants all of it',
  },
  {
    name: 'budget-grow',
    find: 'this.#requireRoom(); this.set(bytes);',
    replace: 'this.set(bytes);',
    mechanism: 'a body that grows is refused where there is no room',
    test: TEST,
    title: 'gives a tenant half of it, and all tenants all of it',
  },
  {
    name: 'budget-shared-once',
    find: 'if (--entry.answers > 0) return;',
    replace: '',
    mechanism: 'shared bytes are counted while an answer has them',
    test: TEST,
    title: 'counts bytes that answers share once, until the last of them has been read',
  },
  {
    name: 'budget-turns',
    find: 'if (state.waiting.size === 0 && this.hasRoom(tenant)) return',
    replace: 'if (state.waiting.size >= 0) return',
    mechanism: 'a stream reads where there is room',
    test: TEST,
    title: 'gives turns in the order in which they were asked for, each once there is room',
  },
  {
    name: 'budget-reads',
    find: '// It may have waited. this.requireRoom(tenant);',
    replace: '',
    mechanism: 'a read that has waited is refused where there is no room by then',
    test: TEST,
    title: 'reads few large things at once, and refuses where what waited finds no room',
  },
  {
    name: 'budget-refuses',
    find: 'if (request.routeOptions.config.waitsForRoom !== true) budget.requireRoom(request.tenant);',
    replace: '',
    mechanism: 'requests are refused before anything is read for them',
    test: TEST,
    title: REFUSED,
  },
  {
    name: 'budget-answers',
    find: "else if (typeof payload === 'string') request.hold.set(Buffer.byteLength(payload));",
    replace: "else if (typeof payload === 'string') request.hold.set(0);",
    mechanism: 'an answer is counted until its client has read it',
    test: TEST,
    title: REFUSED,
  },
  {
    name: 'budget-freed',
    find: "reply.raw.once('close', () => hold.set(0));",
    replace: '',
    mechanism: 'what a request held is free once it is over',
    test: TEST,
    title: REFUSED,
  },
] satisfies readonly Change[];
