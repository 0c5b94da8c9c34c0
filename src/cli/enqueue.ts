import { Command, Option } from 'commander';
import type { EnqueueOptions, JobHandle } from '../client/types.ts';
import { OncefleetError } from '../errors.ts';
import type { SystemEvent } from '../journal/event.ts';
import { printableJson } from '../printable.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { formatEventJson, formatEventLine } from './event-text.ts';
import { followJob, requireCompleted, requireCompletedRecord } from './follow-job.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jobsOption, jsonOption, parseDuration, parseInteger } from './options.ts';
import { Progress } from './progress.ts';
import { readInput } from './read-input.ts';
import { listenForInterrupt } from './signals.ts';
import type { Terminal } from './terminal.ts';

/** BullMQ's largest priority. */
const MAX_PRIORITY = 2_097_152;

interface EnqueueCliOptions extends CommonOptions {
  jobs: string[];
  key?: string;
  delay?: number;
  priority?: number;
  wait?: boolean;
  follow?: boolean;
  timeout?: number;
  jsonl?: string;
}

export function enqueueCommand(context: CliContext): Command {
  const command = new Command('enqueue')
    .summary('add a job')
    .description(
      'Adds a job and prints its id. With a key that was used before it attaches to that job, or gives its outcome.',
    )
    .argument('<name>', "the job's name")
    .argument('[input]', 'its input: JSON, @file, or - for standard input; {} unless given')
    .option('-k, --key <key>', 'idempotency key, 1 to 255 bytes')
    .option('--delay <duration>', 'start no earlier than this from now: 500ms, 30s, 5m, 2h, 1d', parseDuration)
    .option(
      '--priority <number>',
      '1 is first; 0, the default, comes before all of those',
      parseInteger(0, MAX_PRIORITY),
    )
    .addOption(new Option('-w, --wait', 'wait for the end and print the result').conflicts('follow'))
    .addOption(new Option('-f, --follow', "print the job's events until its end").conflicts('wait'))
    .option(
      '--timeout <duration>',
      'with --wait or --follow: stop waiting after this (exit code 7); the job continues',
      parseDuration,
    )
    .option(
      '--jsonl <file>',
      'many jobs, one a line: {"input": …, "key": …, "delayMs": …, "priority": …}; - for standard input',
    )
    .addOption(jobsOption())
    .addOption(jsonOption())
    .action((name: string, input: string | undefined, options: EnqueueCliOptions) =>
      runEnqueue(context, name, input, options),
    );
  return addExamples(
    command,
    [
      [
        `oncefleet enqueue greet '{"name":"Ada"}' --jobs ./examples/greet-job.ts --key greet-ada --wait`,
        'run it once, print its result',
      ],
      ['id=$(oncefleet enqueue report @report.json --delay 10m)', 'the id alone goes to standard output'],
      [
        'jq -c .order order.json | oncefleet enqueue bill - --key order-17 --follow --json',
        'input from a pipe, events as JSON lines',
      ],
      [
        'oncefleet enqueue bill --jsonl orders.jsonl',
        'a job a line; lines that are refused are named, the others enqueued',
      ],
    ],
    'With --json: {"id","outcome","status"}, with --wait also "result"; with --follow that object on the\n' +
      'first line, then {"seq","fence","event"} for each event.',
  );
}

async function runEnqueue(
  context: CliContext,
  name: string,
  inputArgument: string | undefined,
  options: EnqueueCliOptions,
): Promise<void> {
  if (options.timeout !== undefined && options.wait !== true && options.follow !== true) {
    throw new OncefleetError('INPUT_INVALID', '--timeout says how long to wait: give --wait or --follow with it');
  }
  if (options.jsonl !== undefined) return runLines(context, name, options.jsonl, { inputArgument, options });
  const input = await readInput(inputArgument, context);
  const terminal = terminalOf(context, options);
  await withFleet(context, { jobs: options.jobs, needsJobs: true }, async (fleet) => {
    using interrupt = listenForInterrupt();
    const handle = await fleet.enqueue(name, input, toEnqueueOptions(options));
    const { id, outcome, status } = handle;
    terminal.note(describeOutcome(name, handle));
    if (options.wait !== true) {
      await (options.json === true ? terminal.jsonLine(JSON.stringify({ id, outcome, status })) : terminal.line(id));
    }
    if (options.wait !== true && options.follow !== true) return;

    const progress = new Progress(terminal, name);
    const end = await followJob(fleet, id, {
      interrupt,
      ...(options.timeout === undefined ? {} : { timeoutMs: options.timeout }),
      outcomeOnly: true,
      note: (text) => progress.note(text),
      onEvent: async (event) => {
        if (options.follow === true)
          await terminal.line(options.json === true ? formatEventJson(event) : formatEventLine(event));
        else if (event.event.type === 'progress')
          progress.update(event.event as Extract<SystemEvent, { type: 'progress' }>);
      },
    });
    progress.finish();
    if (end !== undefined) requireCompleted(id, end);
    // A redriven or very old job may have no stream any more; its row still knows.
    else requireCompletedRecord((await fleet.get(id)) ?? missing(id));
    if (options.wait === true) {
      const result = end?.type === 'end' ? end.result : await handle.result({ signal: interrupt.signal });
      await printResult(terminal, { id, outcome, status: 'completed' }, result);
    }
  });
}

async function runLines(
  context: CliContext,
  name: string,
  file: string,
  { inputArgument, options }: { inputArgument: string | undefined; options: EnqueueCliOptions },
): Promise<void> {
  const { key, delay, priority, wait, follow } = options;
  if ([inputArgument, key, delay, priority, wait, follow].some((given) => given !== undefined))
    throw new OncefleetError(
      'INPUT_INVALID',
      'With --jsonl each line has its input, key, delay and priority; nothing is waited for',
    );
  const terminal = terminalOf(context, options);
  const { enqueueLines } = await import('./enqueue-many.ts');
  await withFleet(context, { jobs: options.jobs, needsJobs: true }, (fleet) =>
    enqueueLines(fleet, name, { file, context, terminal }),
  );
}

function toEnqueueOptions({ key, delay, priority }: EnqueueCliOptions): EnqueueOptions {
  return {
    ...(key === undefined ? {} : { key }),
    ...(delay === undefined ? {} : { delayMs: delay }),
    ...(priority === undefined ? {} : { priority }),
  };
}

export function describeOutcome(
  name: string,
  { id, outcome, status }: Pick<JobHandle, 'id' | 'outcome' | 'status'>,
): string {
  if (outcome === 'created') return `Job ${id} (${name}) created`;
  if (outcome === 'attached') return `Attached to job ${id} (${name}), which is ${status}`;
  return `Job ${id} (${name}) had this key and is ${status}: nothing is run again`;
}

async function printResult(terminal: Terminal, job: object, result: unknown): Promise<void> {
  if (terminal.json) return terminal.jsonLine(JSON.stringify({ ...job, result: result ?? null }));
  const json = printableJson(JSON.stringify(result ?? null, null, terminal.interactive ? 2 : undefined));
  await terminal.lines(json.split('\n'));
}

function missing(id: string): never {
  throw new OncefleetError('JOB_NOT_FOUND', `Job ${id} is gone`, { details: { jobId: id } });
}
