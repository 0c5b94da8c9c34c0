import { Command, Option } from 'commander';
import type { ScheduleOptions, ScheduleRecord } from '../client/schedules/types.ts';
import { OncefleetError } from '../errors.ts';
import type { Fleet } from '../workers/fleet.ts';
import { formatTable } from './columns.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jobsOption, jsonOption, parseDuration } from './options.ts';
import { readInput } from './read-input.ts';
import type { Terminal } from './terminal.ts';

/** What a table may take, whatever it is printed to. */
const MAX_COLUMNS = 120;

interface SetOptions extends CommonOptions {
  jobs: string[];
  input?: string;
  cron?: string;
  timeZone?: string;
  every?: number;
  start?: string;
  end?: string;
  catchUp?: 'skip' | 'one' | 'all';
  skipOverlap?: boolean;
}

export function schedulesCommand(context: CliContext): Command {
  const command = new Command('schedules')
    .summary('jobs at times: list, set, pause, resume and remove')
    .description('Schedules of the tenant. Any worker that knows the job makes the jobs of their ticks, each once.');
  const use = (options: CommonOptions, run: (fleet: Fleet, terminal: Terminal) => Promise<void>) => {
    const terminal = terminalOf(context, options);
    return withFleet(context, {}, (fleet) => run(fleet, terminal));
  };
  const sub = (name: string, about: string) => {
    const child = new Command(name).description(about).copyInheritedSettings(command).addOption(jsonOption());
    command.addCommand(child, { isDefault: name === 'list' });
    return child;
  };
  sub('list', 'A table of schedules, by name.').action((options: CommonOptions) => use(options, list));
  sub('set', 'Makes a schedule, or changes the one of this name.')
    .argument('<name>', 'names it within its tenant')
    .argument('<job>', 'the job that each tick enqueues')
    .option('--input <input>', 'its input: JSON, @file, or - for standard input')
    .option('--cron <expression>', 'five fields of cron, or @hourly, @daily and so on')
    .option('--time-zone <name>', 'of cron, such as Europe/Berlin; default UTC')
    .option('--every <duration>', 'instead of cron: an interval of 1s or more', parseDuration)
    .option('--start <time>', 'no tick before it, ISO 8601')
    .option('--end <time>', 'no tick after it, ISO 8601')
    .addOption(new Option('--catch-up <kind>', 'ticks that were missed; default one').choices(['skip', 'one', 'all']))
    .option('--skip-overlap', 'no tick while the job of the last one has not ended')
    .addOption(jobsOption())
    .action((name: string, job: string, options: SetOptions) => set(context, { name, job }, options));
  for (const [verb, about] of [
    ['pause', 'It does not tick until it is resumed.'],
    ['resume', 'It ticks again; what came meanwhile is not made up for.'],
  ] as const)
    sub(verb, about)
      .argument('<name>', 'as `list` shows it')
      .action((name: string, options: CommonOptions) =>
        use(options, async (fleet, terminal) => show(terminal, await fleet.schedules[verb](name))),
      );
  sub('remove', 'Removes a schedule; its jobs stay.')
    .argument('<name>', 'as `list` shows it')
    .action((name: string, options: CommonOptions) =>
      use(options, async (fleet, terminal) => {
        if (!(await fleet.schedules.remove(name)))
          throw new OncefleetError('SCHEDULE_NOT_FOUND', `No schedule is named "${name}"`);
        await (terminal.json
          ? terminal.jsonLine(JSON.stringify({ name, removed: true }))
          : terminal.line(`Removed ${name}`));
      }),
    );
  return addExamples(command, [
    [
      `oncefleet schedules set nightly report --cron "30 2 * * *" --time-zone Europe/Berlin --input '{"kind":"daily"}'`,
      'each night at 2:30, through both changes of the clock',
    ],
    [
      'oncefleet schedules set poll fetch --every 5m --skip-overlap',
      'every five minutes, unless the last one still runs',
    ],
    ['oncefleet schedules', 'what there is, and when it ticks next'],
  ]);
}

async function set(
  context: CliContext,
  { name, job }: { name: string; job: string },
  options: SetOptions,
): Promise<void> {
  const { cron, timeZone, every, start, end, catchUp, skipOverlap } = options;
  const given: ScheduleOptions = {
    input: await readInput(options.input, context),
    ...(cron === undefined ? {} : { cron }),
    ...(timeZone === undefined ? {} : { timeZone }),
    ...(every === undefined ? {} : { everyMs: every }),
    ...(start === undefined ? {} : { startAt: start }),
    ...(end === undefined ? {} : { endAt: end }),
    ...(catchUp === undefined ? {} : { catchUp }),
    ...(skipOverlap === true ? { overlap: 'skip' } : {}),
  };
  const terminal = terminalOf(context, options);
  await withFleet(context, { jobs: options.jobs, needsJobs: true }, async (fleet) =>
    show(terminal, await fleet.schedules.upsert(name, job, given)),
  );
}

async function show(terminal: Terminal, schedule: ScheduleRecord): Promise<void> {
  if (terminal.json) return terminal.jsonLine(JSON.stringify(schedule));
  return terminal.line(`${schedule.name}: ${nextOf(schedule)}`);
}

async function list(fleet: Fleet, terminal: Terminal): Promise<void> {
  const schedules: ScheduleRecord[] = [];
  for (let cursor: string | null | undefined; cursor !== null; ) {
    const page = await fleet.schedules.list(cursor === undefined ? {} : { cursor });
    schedules.push(...page.schedules);
    cursor = page.nextCursor;
  }
  if (terminal.json) return terminal.jsonLine(JSON.stringify({ schedules }));
  if (schedules.length === 0) return terminal.note('No schedules.');
  const columns = terminal.interactive ? Math.min(terminal.columns, MAX_COLUMNS) : MAX_COLUMNS;
  const headings = ['NAME', 'JOB', 'WHEN', 'NEXT', 'TICKS', 'SKIPPED'];
  await terminal.lines(formatTable(headings, schedules.map(rowOf), { columns, cut: ['NAME', 'JOB', 'WHEN'] }));
}

function rowOf(schedule: ScheduleRecord): string[] {
  const { name, job, cron, timeZone, everyMs, ticks, skipped } = schedule;
  const when = cron === null ? `every ${everyMs} ms` : `${cron} ${timeZone}`;
  return [name, job, when, nextOf(schedule), String(ticks), String(skipped)];
}

function nextOf({ nextAt, pausedAt }: ScheduleRecord): string {
  if (pausedAt !== null) return 'paused';
  return nextAt === null ? 'ended' : nextAt.slice(0, 19).replace('T', ' ');
}
