import { Command, InvalidArgumentError } from 'commander';
import type { TenantLimits } from '../db/tenant-limits.ts';
import { OncefleetError } from '../errors.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jsonOption, parseDuration } from './options.ts';

interface LimitsOptions extends CommonOptions {
  concurrency?: number | 'none';
  rate?: NonNullable<TenantLimits['rate']> | 'none';
  weight?: number | 'none';
}

export function limitsCommand(context: CliContext): Command {
  const command = new Command('limits')
    .summary('how many jobs of a tenant run at once or start in a time, and its share beside others')
    .description(
      'Shows every tenant that has limits or a weight of its own, or sets those of a tenant. What is set holds with the\n' +
        'next claim, also for jobs that wait already.',
    )
    .argument('[tenant]', 'the tenant to show or to set')
    .option('--concurrency <count>', 'jobs that run at once, 1 to 10,000, or none', parseCount)
    .option('--rate <count/duration>', 'jobs that start in a time, such as 100/1m, or none', parseRate)
    .option('--weight <weight>', 'share of a queue beside the 1 of others, 0.01 to 100, or none', parseWeight)
    .addOption(jsonOption())
    .action((tenant: string | undefined, options: LimitsOptions) => runLimits(context, tenant, options));
  return addExamples(command, [
    ['oncefleet limits', 'tenants with limits of their own'],
    ['oncefleet limits acme --concurrency 20 --rate 100/1m', 'at most 20 at once, and 100 a minute'],
    ['oncefleet limits acme --weight 3', 'three turns for each one of others'],
    ['oncefleet limits acme --concurrency none --rate none --weight none', 'like everybody again'],
  ]);
}

async function runLimits(context: CliContext, tenant: string | undefined, options: LimitsOptions): Promise<void> {
  const { concurrency, rate, weight } = options;
  const isChange = [concurrency, rate, weight].some((value) => value !== undefined);
  if (tenant === undefined && isChange)
    throw new OncefleetError('INPUT_INVALID', 'Name the tenant whose limits to set');
  const terminal = terminalOf(context, options);
  await withFleet(context, {}, async (fleet) => {
    if (tenant !== undefined && isChange)
      await fleet.setTenantLimits(tenant, {
        ...(concurrency === undefined ? {} : { concurrency: orNull(concurrency) }),
        ...(rate === undefined ? {} : { rate: orNull(rate) }),
        ...(weight === undefined ? {} : { weight: orNull(weight) }),
      });
    const all = await fleet.tenantLimits();
    const own = all.filter((limits) => tenant === undefined || limits.tenant === tenant);
    const shown =
      tenant === undefined || own.length > 0 ? own : [{ tenant, concurrency: null, rate: null, weight: null }];
    if (terminal.json) return await terminal.jsonLine(JSON.stringify({ tenants: shown }));
    if (shown.length === 0) await terminal.line('No tenant has limits or a weight of its own.');
    for (const limits of shown) await terminal.line(`${limits.tenant}  ${formatLimits(limits)}`);
  });
}

function orNull<T>(value: T | 'none'): T | null {
  return value === 'none' ? null : value;
}

function formatLimits({ concurrency, rate, weight }: TenantLimits): string {
  return [
    concurrency === null ? 'any number at once' : `${concurrency} at once`,
    rate === null ? 'any number of starts' : `${rate.max} starts in ${rate.perMs} ms`,
    `weight ${weight ?? 1}`,
  ].join(', ');
}

function parseCount(text: string): number | 'none' {
  if (text === 'none') return text;
  if (!/^[1-9]\d{0,4}$/.test(text) || Number(text) > 10_000)
    throw new InvalidArgumentError('Expected a whole number from 1 to 10000, or none.');
  return Number(text);
}

function parseRate(text: string): { max: number; perMs: number } | 'none' {
  if (text === 'none') return text;
  const [count = '', duration = '', ...more] = text.split('/');
  const max = more.length > 0 ? 'none' : parseCount(count);
  if (max === 'none') throw new InvalidArgumentError('Expected a count and a duration, such as 100/1m, or none.');
  return { max, perMs: parseDuration(duration) };
}

function parseWeight(text: string): number | 'none' {
  if (text === 'none') return text;
  const weight = Number(text);
  if (text.trim() === '' || !(weight >= 0.01 && weight <= 100))
    throw new InvalidArgumentError('Expected a number from 0.01 to 100, or none.');
  return weight;
}
