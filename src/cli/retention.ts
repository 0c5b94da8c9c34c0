import { Command, InvalidArgumentError } from 'commander';
import type { TenantPolicy } from '../db/retention.ts';
import { OncefleetError } from '../errors.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jsonOption, parseDuration } from './options.ts';

interface RetentionOptions extends CommonOptions {
  events?: Limit;
  jobs?: Limit;
}

/** ms. Commander turns null into a text. */
type Limit = number | 'default';

const MIN_MS = 1_000;

export function retentionCommand(context: CliContext): Command {
  const command = new Command('retention')
    .summary('how long finished jobs are kept, and for which tenants it differs')
    .description(
      "Shows the fleet's limits (ONCEFLEET_STREAM_RETENTION_MS, ONCEFLEET_JOB_RETENTION_MS) and every tenant that has\n" +
        'its own, or sets those of a tenant. A limit counts from the end of a job; the next sweep follows it.',
    )
    .argument('[tenant]', 'the tenant to show or to set')
    .option('--events <limit>', 'how long events are kept: a duration, never (to remove them) or default', parseLimit)
    .option('--jobs <limit>', 'how long the job with its outcome is kept, likewise', parseLimit)
    .addOption(jsonOption())
    .action((tenant: string | undefined, options: RetentionOptions) => runRetention(context, tenant, options));
  return addExamples(command, [
    ['oncefleet retention', 'the limits in force'],
    ['oncefleet retention acme --events 90d --jobs never', 'a tenant that keeps more'],
    ['oncefleet retention acme --events default --jobs default', 'like everybody again'],
  ]);
}

async function runRetention(context: CliContext, tenant: string | undefined, options: RetentionOptions): Promise<void> {
  const { events, jobs } = options;
  if (tenant === undefined && (events !== undefined || jobs !== undefined))
    throw new OncefleetError('INPUT_INVALID', 'Name the tenant whose limits to set');
  const terminal = terminalOf(context, options);
  await withFleet(context, {}, async (fleet, config) => {
    if (tenant !== undefined && (events !== undefined || jobs !== undefined)) {
      await fleet.setRetention(tenant, {
        ...(events === undefined ? {} : { streamMs: events === 'default' ? null : events }),
        ...(jobs === undefined ? {} : { jobMs: jobs === 'default' ? null : jobs }),
      });
    }
    const policies = await fleet.retentionPolicies();
    const shown =
      tenant === undefined
        ? policies
        : [policies.find((policy) => policy.tenant === tenant) ?? { tenant, streamMs: null, jobMs: null }];
    const defaults = { streamMs: config.streamRetentionMs, jobMs: config.jobRetentionMs };
    if (terminal.json) {
      return await terminal.jsonLine(
        JSON.stringify({
          default: toJson(defaults),
          tenants: shown.map(({ tenant, ...own }) => ({ tenant, ...toJson(own) })),
        }),
      );
    }
    await terminal.line(`default  events ${formatLimit(defaults.streamMs)}, jobs ${formatLimit(defaults.jobMs)}`);
    for (const { tenant, streamMs, jobMs } of shown)
      await terminal.line(`${tenant}  events ${formatLimit(streamMs)}, jobs ${formatLimit(jobMs)}`);
  });
}

/** JSON has no Infinity. */
function toJson({ streamMs, jobMs }: Omit<TenantPolicy, 'tenant'>): Record<string, number | string> {
  const limit = (ms: number | null) => (ms === null ? 'default' : ms === Number.POSITIVE_INFINITY ? 'never' : ms);
  return { streamMs: limit(streamMs), jobMs: limit(jobMs) };
}

function formatLimit(ms: number | null): string {
  if (ms === null) return 'by default';
  if (ms === Number.POSITIVE_INFINITY) return 'never';
  for (const [unit, size] of [
    ['d', 86_400_000],
    ['h', 3_600_000],
    ['m', 60_000],
    ['s', 1_000],
  ] as const)
    if (ms % size === 0) return `${ms / size}${unit}`;
  return `${ms}ms`;
}

function parseLimit(text: string): Limit {
  if (text === 'default') return text;
  if (text === 'never') return Number.POSITIVE_INFINITY;
  const ms = parseDuration(text);
  if (ms < MIN_MS) throw new InvalidArgumentError('Expected a duration of 1s or more, never or default.');
  return ms;
}
