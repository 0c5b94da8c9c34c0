/** Holds docs/reference/metrics.md and the metrics of the code together. */
import { expect, it } from 'vitest';
import { CATALOGUE, entryOf, type MetricName } from '../../src/telemetry/catalogue.ts';
import { codeIn, readPage, tableUnder } from '../helpers/markdown.ts';

it('docs/reference/metrics.md lists every metric with its type, labels, origin and meaning, and no other', () => {
  const rows = tableUnder(readPage('docs/reference/metrics.md'), '| metric | type | labels | of | |');
  const shown = rows.map(([name = '', kind, labels = '', of, help]) => {
    return { name: codeIn(name)[0], kind, labels: codeIn(labels), of, help };
  });
  const there = (Object.keys(CATALOGUE) as MetricName[]).map((name) => {
    const { kind, labels, ofRows, help } = entryOf(name);
    return { name, kind, labels: [...labels], of: ofRows === true ? 'rows' : 'process', help };
  });
  expect(shown).toEqual(there);
});
