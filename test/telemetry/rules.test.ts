/** The alert rules and the dashboard of `deploy/`: valid, about metrics that exist, and each alert with its runbook. */
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, it, onTestFinished } from 'vitest';
import { shareOf } from '../../src/runtime/shared-runtime.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { ROOT, readPage } from '../helpers/markdown.ts';

const file = useDatabase();

const FOLDER = `${ROOT}deploy/prometheus`;
const rules = readFileSync(`${FOLDER}/oncefleet.rules.yml`, 'utf8');
const dashboard = readFileSync(`${ROOT}deploy/grafana/oncefleet.json`, 'utf8');
const alerts = [...rules.matchAll(/^ +- alert: (\w+)$/gm)].map(([, name = '']) => name);

/** Metrics that a text names; a histogram by the series that it has. */
function namedIn(text: string): string[] {
  const names = text.match(/\b(oncefleet|nodejs|process)_[a-z0-9_]+/g) ?? [];
  return [...new Set(names)].toSorted();
}

async function shown(): Promise<Set<string>> {
  const metrics = new Metrics({ runtime: shareOf('fleet', createTestFleet(file.url, [])).runtime, rows: true });
  onTestFinished(() => metrics.close());
  const names = new Set<string>();
  for (const [, name = '', type] of (await metrics.render()).matchAll(/^# TYPE (\w+) (\w+)$/gm))
    for (const suffix of type === 'histogram' ? ['_bucket', '_sum', '_count'] : ['']) names.add(`${name}${suffix}`);
  return names;
}

describe('rules and dashboard', () => {
  it('name metrics that a process has, and no other', async () => {
    const there = await shown();
    const expressions = [...rules.matchAll(/expr: '(.*)'$/gm)].map(([, expression = '']) => expression);
    expect(expressions).toHaveLength(alerts.length);
    const panels = (JSON.parse(dashboard) as { panels: { targets: { expr: string }[] }[] }).panels;
    const asked = panels.flatMap(({ targets }) => targets.map(({ expr }) => expr));
    expect(asked.length).toBeGreaterThan(15);
    const named = namedIn([...expressions, ...asked].join('\n'));
    expect(named.filter((name) => !there.has(name))).toEqual([]);
  });

  it('each alert has an entry in the runbook: symptom, what to look at, what to do; and no other has one', () => {
    const page = readPage('docs/guides/operations.md').split('\n## Alerts\n')[1] as string;
    const entries = page.split('\n### ').slice(1);
    expect(entries.map((entry) => entry.split('\n')[0])).toEqual(alerts);
    for (const entry of entries)
      for (const part of ['Symptom', 'Look at', 'Do'])
        expect(entry).toMatch(new RegExp(`^\\*\\*${part}\\.\\*\\* .{20}`, 'm'));
    const runbooks = [...rules.matchAll(/runbook: (\S+)$/gm)].map(([, link]) => link);
    expect(runbooks).toEqual(alerts.map((name) => `docs/guides/operations.md#${name.toLowerCase()}`));
  });

  const { error } = spawnSync('promtool', ['--version']);
  if (error !== undefined)
    console.warn('promtool is not installed (apt-get install prometheus): rules are not checked');

  it.skipIf(error !== undefined)('promtool accepts the rules, and they fire and rest as their tests say', () => {
    const run = (...args: string[]) => execFileSync('promtool', args, { cwd: FOLDER, encoding: 'utf8' });
    expect(run('check', 'rules', 'oncefleet.rules.yml')).toContain(`SUCCESS: ${alerts.length} rules found`);
    expect(run('test', 'rules', 'oncefleet.rules.test.yml')).toContain('SUCCESS');
  });
});
