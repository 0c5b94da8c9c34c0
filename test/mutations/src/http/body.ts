import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'body-limit-named',
    find: `accepts: \${limit} bytes\``,
    replace: `accepts\``,
    mechanism: 'a body that is too large is told the limit',
    test: 'test/http/jobs.test.ts',
    title: 'refuses a body over the limit, announced or not, and takes one at the limit',
  },
  {
    name: 'body-stall',
    find: 'const timer = setTimeout(onStall, stallMs);',
    replace: 'const timer = setTimeout(() => undefined, stallMs);',
    mechanism: 'a body that stalls is given up',
    test: 'test/http/connections.test.ts',
    title: 'is given up with 408: %s',
  },
  {
    name: 'body-chunks',
    find: 'bytes.copy(larger, 0, 0, length);',
    replace: '',
    mechanism: 'a body in many chunks is put together',
    test: 'test/http/connections.test.ts',
    title: 'is not one that comes slowly, nor one in tiny chunks',
  },
  {
    name: 'body-counted',
    find: 'hold?.grow(size);',
    replace: '',
    mechanism: 'a body is counted while it is read',
    test: 'test/http/byte-budget.test.ts',
    title: 'is told BUSY while bodies that stall fill its share; another is served',
  },
  {
    name: 'body-json-counted',
    find: 'performance.now() - begun)); hold?.grow(heldByJson(body));',
    replace: 'performance.now() - begun));',
    mechanism: 'of a body is counted what its JSON takes in memory',
    test: 'test/http/byte-budget.test.ts',
    title: 'is of a body what its JSON takes in memory, until it is answered',
  },
  {
    name: 'body-turns',
    find: 'setImmediate(() => setTimeout(endTurn, performance.now() - begun));',
    replace: 'endTurn();',
    mechanism: 'large bodies are parsed one in a turn of the event loop',
    test: 'test/http/byte-budget.test.ts',
    title: 'large bodies are parsed one in a turn of the event loop',
  },
] satisfies readonly Change[];
