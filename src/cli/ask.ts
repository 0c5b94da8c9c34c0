import { Command } from 'commander';
import { OncefleetError } from '../errors.ts';
import { AnswerView } from './answer-view.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { describeOutcome } from './enqueue.ts';
import { followJob, requireCompleted } from './follow-job.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, collectionOption, jsonOption, parseDuration } from './options.ts';
import { CommandInterruptedError } from './report.ts';
import { listenForInterrupt } from './signals.ts';

interface AskOptions extends CommonOptions {
  collection: string;
  key?: string;
  conversation?: string;
  stream?: boolean;
  timeout?: number;
  cancelOnExit?: boolean;
}

export function askCommand(context: CliContext): Command {
  const command = new Command('ask')
    .summary('ask a question about a collection')
    .description('Prints an answer from the documents of a collection, as it is written, then its sources.')
    .argument('<question>', 'the question')
    .addOption(collectionOption())
    .option('-k, --key <key>', 'idempotency key: the same question under the same key gets the same answer')
    .option('--conversation <id>', 'continue with this conversation')
    .option(
      '--stream',
      'print the text as it comes also into a pipe, where otherwise only the finished answer is printed',
    )
    .option('--timeout <duration>', 'stop waiting after this (exit code 7); the job continues', parseDuration)
    .option('--cancel-on-exit', 'Ctrl-C, SIGTERM or --timeout also cancels the job')
    .addOption(jsonOption())
    .action((question: string, options: AskOptions) => runAsk(context, question, options));
  return addExamples(
    command,
    [
      ['oncefleet ask "How do I redact a field?" --collection docs', 'the answer, then its sources'],
      ['oncefleet ask "What changed?" -c docs --key report-7 > answer.txt', 'the answer alone goes to the file'],
      ['oncefleet ask "Why?" -c docs --json | jq -r .text', '{"id","outcome","text","sources","model"}'],
    ],
    'Ctrl-C stops following and says how to follow again; the job continues. If an attempt breaks off, a line\n' +
      "says that the answer starts again; a pipe and --json get the last attempt's text alone.",
  );
}

async function runAsk(context: CliContext, question: string, options: AskOptions): Promise<void> {
  if (question.trim() === '') throw new OncefleetError('INPUT_INVALID', 'The question is empty');
  const terminal = terminalOf(context, options);
  await withFleet(context, {}, async (fleet) => {
    using interrupt = listenForInterrupt();
    const input = {
      question,
      collection: options.collection,
      ...(options.conversation === undefined ? {} : { conversationId: options.conversation }),
    };
    const handle = await fleet.enqueue('answer', input, options.key === undefined ? {} : { key: options.key });
    terminal.note(terminal.style('dim', describeOutcome('answer', handle)));
    const live = !terminal.json && (terminal.interactive || options.stream === true);
    const view = new AnswerView(terminal, live);
    try {
      const end = await followJob(fleet, handle.id, {
        interrupt,
        ...(options.timeout === undefined ? {} : { timeoutMs: options.timeout }),
        outcomeOnly: true,
        note: terminal.note,
        text: true,
        onEvent: (event) => view.accept(event),
      });
      if (end !== undefined) requireCompleted(handle.id, end);
      const result = end?.type === 'end' ? end.result : await handle.result({ signal: interrupt.signal });
      if (!terminal.json) return await view.finish(result);
      const { id, outcome } = handle;
      await terminal.jsonLine(JSON.stringify({ id, outcome, ...(result as object) }));
    } catch (error) {
      await view.endLine();
      if (options.cancelOnExit === true && stoppedWaiting(error))
        throw await cancelled(error, () => fleet.cancel(handle.id), handle.id);
      throw error;
    }
  });
}

function stoppedWaiting(error: unknown): error is OncefleetError {
  return error instanceof OncefleetError && error.code === 'WAIT_TIMEOUT';
}

/** The same end, with the words for a job that does not continue. */
async function cancelled(error: OncefleetError, cancel: () => Promise<unknown>, id: string): Promise<OncefleetError> {
  await cancel();
  const message = `Stopped following; job ${id} is cancelled`;
  if (error instanceof CommandInterruptedError) return error.withMessage(message);
  return new OncefleetError('WAIT_TIMEOUT', message, { details: error.details });
}
