import { Command } from 'commander';
import type { JobClient } from '../client/client.ts';
import { OncefleetError } from '../errors.ts';
import { AnswerView } from './answer-view.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { formatEventJson, formatEventLine } from './event-text.ts';
import { followJob, requireCompleted, requireCompletedRecord } from './follow-job.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jsonOption, parseDuration, parseInteger, parseJobId } from './options.ts';
import { listenForInterrupt } from './signals.ts';

interface FollowCliOptions extends CommonOptions {
  after?: number;
  text?: boolean;
  timeout?: number;
}

export function followCommand(context: CliContext): Command {
  const command = new Command('follow')
    .summary("print a job's events as they come")
    .description(
      'Prints the events of a job, those of the past first, until its terminal event. Any number of people may follow one job.',
    )
    .argument('<id>', "the job's id", parseJobId)
    .option('--after <seq>', 'only events after this one', parseInteger(-1, Number.MAX_SAFE_INTEGER))
    .option('--text', "an answer's text and sources instead of its events; the default on a terminal")
    .option('--no-text', 'its events also on a terminal')
    .option('--timeout <duration>', 'stop waiting after this (exit code 7); the job continues', parseDuration)
    .addOption(jsonOption())
    .action((id: string, options: FollowCliOptions) => runFollow(context, id, options));
  return addExamples(
    command,
    [
      ['oncefleet follow <id>', 'from the first event to the last'],
      ['oncefleet follow <id> --after 41 --json', 'event 42 and later, one JSON object a line'],
      ['oncefleet follow <id> --text', 'what `oncefleet ask` would print, also into a pipe'],
    ],
    'Exits with 0, 1 or 5 as the job completed, failed or was cancelled. Ctrl-C stops following; the job continues.',
  );
}

/** Whether the stream is an answer's, read from its start: its text can be put together. */
async function isWholeAnswer(fleet: Pick<JobClient, 'get'>, id: string, after: number | undefined): Promise<boolean> {
  return after === undefined && (await fleet.get(id))?.name === 'answer';
}

async function runFollow(context: CliContext, id: string, options: FollowCliOptions): Promise<void> {
  const terminal = terminalOf(context, options);
  await withFleet(context, {}, async (fleet) => {
    using interrupt = listenForInterrupt();
    const text = options.text ?? (terminal.interactive && (await isWholeAnswer(fleet, id, options.after)));
    const view = text && !terminal.json ? new AnswerView(terminal, terminal.interactive) : undefined;
    const end = await followJob(fleet, id, {
      interrupt,
      ...(options.after === undefined ? {} : { after: options.after }),
      ...(options.timeout === undefined ? {} : { timeoutMs: options.timeout }),
      note: terminal.note,
      text,
      onEvent: async (event) => {
        if (view !== undefined) await view.accept(event);
        else await terminal.line(terminal.json ? formatEventJson(event) : formatEventLine(event));
      },
    }).finally(() => view?.endLine());
    if (end?.type === 'end') await view?.finish(end.result);
    if (end !== undefined) return requireCompleted(id, end);
    const job = await fleet.get(id);
    if (job === undefined) throw new OncefleetError('JOB_NOT_FOUND', `No job ${id}`);
    terminal.note(`No events after ${options.after ?? -1}: the job is ${job.status}`);
    requireCompletedRecord(job);
  });
}
