import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'fingerprint-key-order',
    find: 'fields.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));',
    replace: '',
    mechanism: 'the order of fields does not matter',
    test: 'test/enqueue/fingerprint.test.ts',
    title: 'does not depend on %s',
  },
  {
    name: 'fingerprint-nfc-values',
    find: `JSON.stringify(value.normalize('NFC'))`,
    replace: 'JSON.stringify(value)',
    mechanism: 'the Unicode form of texts does not matter',
    test: 'test/runs/deliveries.test.ts',
    title: 'with another input is a mismatch; with the same input in another order it is not',
  },
  {
    name: 'fingerprint-nfc-keys',
    find: `[key.normalize('NFC'), item]`,
    replace: '[key, item]',
    mechanism: 'the Unicode form of field names does not matter',
    test: 'test/enqueue/fingerprint.test.ts',
    title: 'does not depend on %s',
  },
  {
    name: 'fingerprint-depth',
    find: 'if (depth > MAX_DEPTH)',
    replace: 'if (false)',
    mechanism: 'an input has a greatest depth',
    test: 'test/enqueue/fingerprint.test.ts',
    title: 'refuses nesting deeper than an event may have',
  },
  {
    name: 'key-length',
    find: 'bytes === 0 || bytes > MAX_KEY_BYTES',
    replace: 'bytes === 0',
    mechanism: 'a key has a greatest length, in bytes',
    test: 'test/enqueue/fingerprint.test.ts',
    title: 'may not be %s',
  },
] satisfies readonly Change[];
