import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'event-written-type',
    find: 'checkShape(JSON.parse(json));',
    replace: '{}',
    mechanism: 'the type that is written is the one that is checked',
    test: 'test/journal/writer.test.ts',
    title: 'with %s is refused alone, and the stream goes on',
  },
  {
    name: 'event-length',
    find: 'if (json.length > MAX_EVENT_LENGTH) {',
    replace: 'if (false) {',
    mechanism: 'an event has a greatest length',
    test: 'test/journal/writer.test.ts',
    title: 'with %s is refused alone, and the stream goes on',
  },
  {
    name: 'event-depth',
    find: 'if (json.length > 2 * MAX_EVENT_DEPTH && jsonDepth(json) > MAX_EVENT_DEPTH) {',
    replace: 'if (false) {',
    mechanism: 'an event has a greatest depth',
    test: 'test/journal/writer.test.ts',
    title: 'may be nested as deep as the limit, and no deeper',
  },
  {
    name: 'event-reserved',
    find: 'if (RESERVED_TYPES.has(event.type)) {',
    replace: 'if (false) {',
    mechanism: 'a handler cannot emit a terminal event',
    test: 'test/journal/writer.test.ts',
    title: 'with %s is refused alone, and the stream goes on',
  },
] satisfies readonly Change[];
