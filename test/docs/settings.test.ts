/** Holds the settings of docs/reference/settings.md and those of the code together. */
import { expect, it } from 'vitest';
import type { z } from 'zod';
import { CONFIG_VARIABLES } from '../../src/config.ts';
import { jobOptionsSchema } from '../../src/jobs/define-job.ts';
import { fleetSchema } from '../../src/workers/fleet.ts';
import { readPage, tableUnder } from '../helpers/markdown.ts';

const page = readPage('docs/reference/settings.md');

const withoutTicks = (rows: string[][]) => rows.map((cells) => cells.map((cell) => cell.replaceAll('`', '')));
const jobRows = withoutTicks(tableUnder(page, '| setting | default | from, to | |'));
const fleetRows = withoutTicks(tableUnder(page, '| option | variable | default | from, to | |'));

const grouped = (digits: string) => Number(digits).toLocaleString('en-US');

/** `1 to 1,000`; empty where a setting is no number. */
function rangeOf(schema: z.ZodType): string {
  const message = schema.safeParse(Number.NaN).error?.issues[0]?.message ?? '';
  const bounds = /from (\d+) to (\d+)/.exec(message);
  return bounds === null ? '' : `${grouped(bounds[1] as string)} to ${grouped(bounds[2] as string)}`;
}

/** As the page writes it; empty where there is none, or it is no plain value. */
function defaultOf(schema: z.ZodType): string {
  const { data } = schema.safeParse(undefined);
  if (typeof data === 'number') return grouped(String(data));
  return typeof data === 'string' || typeof data === 'boolean' ? String(data) : '';
}

it('the page lists every setting of a job with its default and limits, and no other', () => {
  const shape = jobOptionsSchema.shape as Record<string, z.ZodType>;
  expect(jobRows.map(([name]) => name).toSorted()).toEqual(Object.keys(shape).toSorted());
  for (const [name = '', shown = '', range, about = ''] of jobRows) {
    const schema = shape[name] as z.ZodType;
    expect({ name, range }).toEqual({ name, range: rangeOf(schema) });
    const plain = defaultOf(schema);
    if (plain !== '') expect({ name, shown }).toEqual({ name, shown: plain });
    else expect(/\d/.test(shown), `${name} has no plain default`).toBe(name === 'backoff');
    expect(about, name).not.toBe('');
  }
  expect(jobOptionsSchema.shape.backoff.parse(undefined)).toEqual({ type: 'exponential', delayMs: 1_000 });
});

it('the page lists every option of a fleet with its variable, default and limits, and no other', () => {
  const shape = fleetSchema.shape as Record<string, z.ZodType>;
  expect(fleetRows.map(([name]) => name).toSorted()).toEqual(Object.keys(shape).toSorted());
  for (const [name = '', variable = '', shown, range, about = ''] of fleetRows) {
    const schema = shape[name] as z.ZodType;
    expect({ name, range }).toEqual({ name, range: rangeOf(schema) });
    const ofVariable = (CONFIG_VARIABLES as Record<string, { schema: z.ZodType }>)[variable]?.schema;
    const plain = defaultOf(schema);
    if (plain !== '') expect({ name, shown }).toEqual({ name, shown: plain });
    if (variable !== '' && name !== 'jobs') {
      expect(ofVariable, variable).toBeDefined();
      expect({ variable, shown: defaultOf(ofVariable as z.ZodType) }).toEqual({ variable, shown: plain });
    }
    expect(about, name).not.toBe('');
  }
});
