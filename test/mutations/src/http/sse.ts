import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'sse-split',
    find: 'if (LINE_BREAK.test(frame.data))',
    replace: 'if (false)',
    mechanism: 'data is split at every line break a parser knows',
    test: 'test/http/sse.test.ts',
    title: 'splits data at CRLF, CR and LF',
  },
  {
    name: 'sse-one-line',
    find: `throw new RangeError(\`SSE \${what} with a line break or NUL\`);`,
    replace: 'return text;',
    mechanism: 'no id or event name forges a field',
    test: 'test/http/sse.test.ts',
    title: 'as an event name or id, which would forge another field',
  },
] satisfies readonly Change[];
