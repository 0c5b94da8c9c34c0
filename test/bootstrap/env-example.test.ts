import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { CONFIG_VARIABLES, loadConfig } from '../../src/config.ts';

const text = readFileSync(new URL('../../.env.example', import.meta.url), 'utf8');
const shown = new Map([...text.matchAll(/^#([A-Z_]+)=(.*)$/gm)].map(([, name = '', value = '']) => [name, value]));

test('.env.example shows every setting, in the order of the configuration, with what it is about', () => {
  expect([...shown.keys()]).toEqual(Object.keys(CONFIG_VARIABLES));
  for (const { about } of Object.values(CONFIG_VARIABLES)) expect(text).toContain(`# ${about}\n`);
});

test('.env.example says what reads it: every command, after the environment', () => {
  const [header = ''] = text.split('\n\n');
  expect(header).toContain('Copy to .env');
  expect(header).toContain('every command reads');
  expect(header).not.toContain('alone');
});

test('.env.example shows the defaults, and examples that are valid', () => {
  expect(() => loadConfig(Object.fromEntries(shown))).not.toThrow();
  for (const [name, { schema }] of Object.entries(CONFIG_VARIABLES)) {
    const unset = schema.safeParse(undefined);
    if (unset.success && unset.data !== undefined) expect(shown.get(name), name).toBe(String(unset.data));
  }
});
