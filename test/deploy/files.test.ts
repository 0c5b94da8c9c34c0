/** What the files of deploy/ name is there: settings, commands, routes, ports and metrics. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { createProgram } from '../../src/cli/program.ts';
import { CONFIG_VARIABLES } from '../../src/config.ts';
import { RANGES } from '../../src/options.ts';
import { CATALOGUE } from '../../src/telemetry/catalogue.ts';
import { ROOT } from '../helpers/markdown.ts';

const FOLDERS = ['docker', 'kubernetes', 'systemd'];
const files = FOLDERS.flatMap((folder) =>
  readdirSync(join(ROOT, 'deploy', folder)).map((name) => {
    const path = `deploy/${folder}/${name}`;
    return { path, text: readFileSync(join(ROOT, path), 'utf8') };
  }),
);
const textOf = (path: string) => files.find((file) => file.path === path)?.text ?? '';
const documentsOf = (path: string) => parseAllDocuments(textOf(path), { merge: true });

type Fields = Record<string, unknown>;
interface Container {
  args: string[];
  ports?: { name: string; containerPort: number }[];
  [probe: string]: unknown;
}

const commands = createProgram(
  { env: {}, cwd: ROOT, stdin: process.stdin, stdout: process.stdout, stderr: process.stderr, exitCode: 0 },
  '0.0.0',
).commands.map((command) => command.name());

it.each(files.filter(({ path }) => /\.ya?ml$/.test(path)).map(({ path }) => path))('%s is YAML', (path) => {
  for (const document of documentsOf(path)) expect([...document.errors, ...document.warnings]).toEqual([]);
});

it.each(files.map(({ path, text }) => [path, text]))('every setting in %s is one', (_, text) => {
  const named = text.match(/\b(?:ONCEFLEET|DATABASE|REDIS|OPENAI)_[A-Z_]+\b/g) ?? [];
  expect(named.filter((name) => !Object.keys(CONFIG_VARIABLES).includes(name))).toEqual([]);
});

const compose = documentsOf('deploy/docker/compose.yml')[0]?.toJS() as { services: Record<string, Fields> };
const manifests = documentsOf('deploy/kubernetes/oncefleet.yaml').map((document) => document.toJS() as Fields);
const containers = manifests.flatMap(({ spec }) => {
  const pod = (spec as { template?: { spec: { containers: Container[] } } } | undefined)?.template?.spec;
  return pod?.containers ?? [];
});

describe('what is started', () => {
  it('is a command', () => {
    const services = Object.values(compose.services).filter(({ image }) => image === 'oncefleet');
    const started = [
      ...services.map(({ command }) => (command as string[])[0]),
      ...containers.map(({ args }) => args[0]),
      ...files.flatMap(({ text }) =>
        [...text.matchAll(/^ExecStart=.*oncefleet\.mjs (\w+)/gm)].map((found) => found[1]),
      ),
      ...[...textOf('deploy/docker/Dockerfile').matchAll(/^CMD \["(\w+)"\]/gm)].map((found) => found[1]),
    ];
    expect(started).toHaveLength(9);
    for (const command of started) expect(commands).toContain(command);
  });

  it('has the time that closing takes', () => {
    const needed = RANGES.shutdownMs.default / 1_000 + 7;
    const times = files.flatMap(({ text }) => [
      ...text.matchAll(/(?:stop_grace_period: |terminationGracePeriodSeconds: |TimeoutStopSec=)(\d+)/g),
    ]);
    expect(times).toHaveLength(5);
    for (const [, seconds] of times) expect(Number(seconds)).toBeGreaterThan(needed);
  });
});

it('probes ask routes and ports that are there', () => {
  const routes = readFileSync(join(ROOT, 'src/http/health.ts'), 'utf8');
  const asked = files.flatMap(({ text }) => text.match(/\/(?:healthz|readyz|livez|health|ready)\b/g) ?? []);
  expect(asked.length).toBeGreaterThan(2);
  for (const route of asked) expect(routes).toContain(`'${route}'`);
  const settings = manifests.find(({ kind }) => kind === 'ConfigMap')?.['data'] as Record<string, string>;
  const ports = containers.flatMap((container) => container.ports ?? []);
  expect(ports).toEqual([
    { name: 'http', containerPort: Number(settings['PORT']) },
    { name: 'metrics', containerPort: Number(settings['ONCEFLEET_METRICS_PORT']) },
  ]);
  expect(textOf('deploy/docker/Dockerfile')).toContain(
    `EXPOSE ${settings['PORT']} ${settings['ONCEFLEET_METRICS_PORT']}`,
  );
});

it('metrics that are asked for exist', () => {
  const named = textOf('deploy/kubernetes/keda.yaml').match(/\boncefleet_\w+/g) ?? [];
  expect(named).not.toEqual([]);
  for (const name of named) expect(Object.keys(CATALOGUE)).toContain(name);
});

it('nothing runs as root, and every disruption budget selects pods that there are', () => {
  expect(textOf('deploy/docker/Dockerfile')).toMatch(/^USER node$/m);
  const labels = manifests.flatMap(({ kind, spec }) =>
    kind === 'Deployment' ? [(spec as { template: { metadata: { labels: Fields } } }).template.metadata.labels] : [],
  );
  for (const { kind, spec } of manifests) {
    if (kind === 'PodDisruptionBudget')
      expect(labels).toContainEqual((spec as { selector: { matchLabels: Fields } }).selector.matchLabels);
    const pod = (spec as { template?: { spec: { securityContext: Fields } } } | undefined)?.template?.spec;
    if (pod !== undefined) expect(pod.securityContext).toMatchObject({ runAsNonRoot: true });
  }
});

const systemd = spawnSync('systemd-analyze', ['--version']).status === 0;
const promtool = spawnSync('promtool', ['--version']).status === 0;

it.skipIf(!systemd).each(readdirSync(join(ROOT, 'deploy/systemd')))('systemd takes %s', (unit) => {
  const { status, stderr } = spawnSync('systemd-analyze', ['verify', join(ROOT, 'deploy/systemd', unit)], {
    encoding: 'utf8',
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
});

it.skipIf(!promtool)('Prometheus takes its configuration', () => {
  const { status, stderr } = spawnSync(
    'promtool',
    ['check', 'config', '--syntax-only', join(ROOT, 'deploy/docker/prometheus.yml')],
    {
      encoding: 'utf8',
    },
  );
  expect(status, stderr).toBe(0);
});
