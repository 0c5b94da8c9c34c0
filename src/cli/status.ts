import { Command, Option } from 'commander';
import type { AttemptRecord, FindOptions, JobPage, JobRecord, JobStatus } from '../client/types.ts';
import { JOB_STATUSES } from '../db/jobs/states.ts';
import { OncefleetError } from '../errors.ts';
import { printableJson } from '../printable.ts';
import { cutTo, formatTable } from './columns.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jsonOption, parseInteger, parseJobId } from './options.ts';
import type { Style } from './styled.ts';
import { counted, type Terminal } from './terminal.ts';

const STATUS_STYLES: Record<JobStatus, Style> = {
  pending: 'dim',
  running: 'yellow',
  completed: 'green',
  failed: 'red',
  cancelled: 'dim',
};
/** Results and inputs can be megabytes; --json has them whole. */
const MAX_VALUE_COLUMNS = 1_000;
const MAX_KEY_COLUMNS = 40;
const MAX_ERROR_COLUMNS = 80;
/** What a table may take, whatever it is printed to. */
const MAX_COLUMNS = 100;

interface StatusOptions extends CommonOptions {
  name?: string;
  key?: string;
  status?: JobStatus;
  limit?: number;
  cursor?: string;
}

export function statusCommand(context: CliContext): Command {
  const command = new Command('status')
    .summary('show a job, or search for jobs')
    .description('With an id, one job with its attempts. Without, a table of jobs, newest first.')
    .argument('[id]', "the job's id", parseJobId)
    .option('--name <name>', 'jobs of this name')
    .option('-k, --key <key>', 'jobs with this idempotency key')
    .addOption(new Option('--status <status>', 'jobs in this status').choices(JOB_STATUSES))
    .option('--limit <number>', 'at most this many, 1 to 100', parseInteger(1, 100))
    .option('--cursor <cursor>', 'the next page; printed under the one before')
    .addOption(jsonOption())
    .action((id: string | undefined, options: StatusOptions) => runStatus(context, id, options));
  return addExamples(
    command,
    [
      ['oncefleet status', 'the newest 20 jobs'],
      ['oncefleet status <id>', 'one job: status, attempts, progress, result or error'],
      ['oncefleet status --name ingest --status failed', 'what went wrong'],
      ['oncefleet status --key order-17 --json', '{"jobs":[…],"nextCursor":null}'],
    ],
    'Exits with 0 whatever the status of a job is; `follow` exits by it.',
  );
}

async function runStatus(context: CliContext, id: string | undefined, options: StatusOptions): Promise<void> {
  const { name, key, status, limit, cursor } = options;
  const search: FindOptions = {
    ...(name === undefined ? {} : { name }),
    ...(key === undefined ? {} : { key }),
    ...(status === undefined ? {} : { status }),
    ...(limit === undefined ? {} : { limit }),
    ...(cursor === undefined ? {} : { cursor }),
  };
  if (id !== undefined && Object.keys(search).length > 0) {
    throw new OncefleetError('INPUT_INVALID', `An id names one job; leave out --${Object.keys(search).join(', --')}`);
  }
  const terminal = terminalOf(context, options);
  await withFleet(context, {}, async (fleet) => {
    if (id === undefined) return printPage(terminal, await fleet.find(search), search);
    const job = await fleet.get(id);
    if (job === undefined) throw new OncefleetError('JOB_NOT_FOUND', `No job ${id}`, { details: { jobId: id } });
    await (terminal.json ? terminal.jsonLine(JSON.stringify(job)) : terminal.lines(formatJob(job, terminal)));
  });
}

async function printPage(terminal: Terminal, page: JobPage, search: FindOptions): Promise<void> {
  if (terminal.json) return terminal.jsonLine(JSON.stringify(page));
  if (page.jobs.length === 0) return terminal.note('No jobs.');
  const rows = page.jobs.map((job) => [
    job.id,
    nameOf(job),
    job.status,
    job.key === null ? '-' : cutTo(job.key, MAX_KEY_COLUMNS),
    formatTime(job.createdAt),
    formatDuration(job.startedAt, job.finishedAt),
    job.error?.code ?? '',
  ]);
  const headings = ['ID', 'NAME', 'STATUS', 'KEY', 'CREATED', 'TOOK', 'ERROR'];
  await terminal.lines(formatTable(headings, rows, { columns: roomOf(terminal), cut: ['NAME', 'KEY', 'ERROR'] }));
  if (page.nextCursor !== null)
    terminal.note(`More: oncefleet status${formatSearch(search)} --cursor ${page.nextCursor}`);
}

function formatSearch({ name, key, status, limit }: FindOptions): string {
  const quote = (text: string) => (/^[\w.:@/-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);
  return [
    name === undefined ? '' : ` --name ${quote(name)}`,
    key === undefined ? '' : ` --key ${quote(key)}`,
    status === undefined ? '' : ` --status ${status}`,
    limit === undefined ? '' : ` --limit ${limit}`,
  ].join('');
}

/** A person's terminal may be narrower; a pipe has no width of its own. */
function roomOf({ interactive, columns }: Pick<Terminal, 'interactive' | 'columns'>): number {
  return interactive ? Math.min(columns, MAX_COLUMNS) : MAX_COLUMNS;
}

/** With its queue, where that has another name. */
function nameOf({ name, queue }: Pick<JobRecord, 'name' | 'queue'>): string {
  return queue === name ? name : `${name} (${queue})`;
}

function formatProgressOf(progress: JobRecord['progress']): string | null {
  if (progress === null) return null;
  const { done, total, message } = progress;
  const share = total === undefined ? `${done}` : `${done} of ${total}`;
  return message === undefined ? share : `${share}: ${message}`;
}

function formatJob(job: JobRecord, terminal: Pick<Terminal, 'style' | 'interactive' | 'columns'>): string[] {
  const fields: [string, string | null][] = [
    ['Job', job.id],
    ['Name', job.name],
    ['Queue', job.queue],
    ['Tenant', job.tenant],
    ['Key', job.key],
    ['Status', terminal.style(STATUS_STYLES[job.status], job.status)],
    [
      'Cancel',
      job.cancelRequestedAt === null || job.status === 'cancelled'
        ? null
        : `asked for at ${formatTime(job.cancelRequestedAt)}`,
    ],
    ['Progress', formatProgressOf(job.progress)],
    ['Created', formatTime(job.createdAt)],
    ['Runs at', job.status === 'pending' ? formatTime(job.runAt) : null],
    ['Started', job.startedAt === null ? null : formatTime(job.startedAt)],
    [
      'Finished',
      job.finishedAt === null
        ? null
        : `${formatTime(job.finishedAt)} (took ${formatDuration(job.startedAt, job.finishedAt)})`,
    ],
    ['Kept until', job.expiresAt === null ? null : formatTime(job.expiresAt)],
    ['Worker', job.leaseOwner],
    [
      'Counts',
      [
        counted(job.crashCount, 'crash', 'crashes'),
        counted(job.errorCount, 'error'),
        counted(job.deferralCount, 'deferral'),
        counted(job.interruptionCount, 'interruption'),
        counted(job.limitedCount, 'met limit'),
      ].join(', '),
    ],
    ['Input', formatValue(job.input)],
    ['Result', job.status === 'completed' ? formatValue(job.result) : null],
    ['Error', job.error === null ? null : `${job.error.code}: ${job.error.message}`],
  ];
  const lines = fields.filter(([, value]) => value !== null).map(([label, value]) => `${label.padEnd(11)} ${value}`);
  if (job.attempts.length > 0) {
    const rows = job.attempts.map((attempt, i) => formatAttempt(attempt, i));
    const headings = ['ATTEMPT', 'FENCE', 'OUTCOME', 'STARTED', 'TOOK', 'WORKER', 'ERROR'];
    lines.push('', ...formatTable(headings, rows, { columns: roomOf(terminal), cut: ['WORKER', 'ERROR'] }));
  }
  return lines;
}

function formatAttempt(attempt: AttemptRecord, index: number): string[] {
  return [
    String(index + 1),
    String(attempt.fence),
    attempt.outcome ?? 'running',
    formatTime(attempt.startedAt),
    formatDuration(attempt.startedAt, attempt.finishedAt),
    `${attempt.worker} on ${attempt.host}`,
    attempt.error === null ? '' : cutTo(`${attempt.error.code}: ${attempt.error.message}`, MAX_ERROR_COLUMNS),
  ];
}

function formatValue(value: unknown): string {
  const json = printableJson(JSON.stringify(value ?? null));
  return json.length > MAX_VALUE_COLUMNS
    ? `${cutTo(json, MAX_VALUE_COLUMNS)} (${json.length} characters; --json has all)`
    : json;
}

/** `2026-08-01 12:00:00`, UTC. */
function formatTime(iso: string): string {
  return iso.slice(0, 19).replace('T', ' ');
}

function formatDuration(from: string | null, to: string | null): string {
  if (from === null || to === null) return '-';
  const ms = Date.parse(to) - Date.parse(from);
  if (ms < 1_000) return `${ms} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1_000)} s`;
}
