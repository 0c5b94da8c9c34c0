/** `oncefleet eval`: how often questions find what answers them, and whether what answers cite is there. */
import { createReadStream } from 'node:fs';
import { resolve } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { OncefleetError } from '../errors.ts';
import type { EmbeddingSettings } from '../model-settings.ts';
import type { Fleet } from '../workers/fleet.ts';
import { formatTable } from './columns.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { type EvalQuestion, MAX_QUESTIONS_BYTES, readQuestions } from './eval-questions.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jsonOption, parseInteger } from './options.ts';
import { Progress } from './progress.ts';
import { CommandInterruptedError } from './report.ts';
import { type Interrupt, listenForInterrupt } from './signals.ts';
import { counted, type Terminal } from './terminal.ts';
import { decodeText, describeFileError } from './text.ts';

/** As many as an answer rests on by default. */
const SOURCES = 6;
/** Misses that are named; --json has all. */
const MAX_NAMED = 20;

interface EvalOptions extends CommonOptions {
  collection?: string;
  retrieveOnly?: boolean;
  minRecall?: number;
  minCitations?: number;
  minWords?: number;
  concurrency: number;
}

/** A passage that was found, or that an answer rests on. */
interface Passage {
  path: string;
  heading: string;
  /** Only of one that was found without an answer. */
  content?: string;
}

interface Outcome {
  passages: Passage[];
  /** Absent with --retrieve-only. */
  answer?: { text: string; citations: { total: number; invalid: number } };
  error?: { code: string; message: string };
}

interface Judged {
  question: EvalQuestion;
  /** From 1; none: not among the sources. `undefined`: the question does not say which is right. */
  rank: number | 'none' | undefined;
  hasWords: boolean | undefined;
  outcome: Outcome;
}

type Find = (question: EvalQuestion, signal: AbortSignal) => Promise<Outcome>;

export function evalCommand(context: CliContext): Command {
  const command = new Command('eval')
    .summary('measure answers with a set of questions')
    .description(
      'Asks every question of a file and prints how often its passage was among the sources, how often the answer has the words\n' +
        'that are expected, and how many citations hold. A line of the file is a JSON object (or the file is an array of them):\n' +
        '  {"question": "…", "path": "docs/a.md", "heading": "Setup", "words": ["port"], "collection": "docs"}\n' +
        'where `path` and `heading` say which passage is right, `words` what the answer must have; one of them is needed.',
    )
    .argument('<file>', 'questions, JSON lines or a JSON array; - reads standard input')
    .option('-c, --collection <name>', 'the collection of questions that name none')
    .option('--retrieve-only', 'search alone: no job, no model')
    .option('--min-recall <share>', 'exit with 1 where fewer are among the first five, 0 to 1', parseShare)
    .option('--min-words <share>', 'exit with 1 where fewer answers have their words, 0 to 1', parseShare)
    .option('--min-citations <share>', 'exit with 1 where fewer citations hold, 0 to 1', parseShare)
    .option('--concurrency <count>', 'questions at once', parseInteger(1, 64), 4)
    .addOption(jsonOption())
    .action((file: string, options: EvalOptions) => runEval(context, file, options));
  return addExamples(
    command,
    [
      ['oncefleet eval questions.jsonl -c docs', 'a table, and which questions missed'],
      ['oncefleet eval questions.jsonl -c docs --retrieve-only --min-recall 0.8', 'a check for CI that asks no model'],
      ['oncefleet eval questions.jsonl -c docs --json | jq .recall', '{"of","hit1","hit3","hit5","mrr"}'],
    ],
    'A worker must run, but for --retrieve-only. Each question is a job of its own: every run asks the model anew.',
  );
}

function parseShare(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= 0 && value <= 1))
    throw new InvalidArgumentError('Expected a number from 0 to 1.');
  return value;
}

async function runEval(context: CliContext, file: string, options: EvalOptions): Promise<void> {
  if (options.retrieveOnly === true && options.minCitations !== undefined)
    throw new OncefleetError('INPUT_INVALID', '--min-citations needs answers: leave --retrieve-only out');
  const content = await readContent(context, file);
  const questions = readQuestions(file, content, options.collection);
  const terminal = terminalOf(context, options);
  await withFleet(context, {}, async (fleet, config) => {
    using interrupt = listenForInterrupt();
    const find = options.retrieveOnly === true ? await createSearch(fleet, config) : createAsk(fleet);
    const judged = await askAll(questions, find, { interrupt, terminal, concurrency: options.concurrency });
    const figures = figuresOf(judged);
    await print(terminal, judged, figures);
    requireShares(figures, options);
  });
}

async function readContent(context: CliContext, file: string): Promise<string> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  try {
    for await (const piece of file === '-' ? context.stdin : createReadStream(resolve(context.cwd, file))) {
      length += piece.length;
      if (length > MAX_QUESTIONS_BYTES)
        throw new OncefleetError('FILE_UNREADABLE', `${file} has more than ${MAX_QUESTIONS_BYTES} bytes`);
      pieces.push(piece as Uint8Array);
    }
  } catch (error) {
    if (error instanceof OncefleetError) throw error;
    throw new OncefleetError('FILE_UNREADABLE', `${file} ${describeFileError(error)}`, { cause: error });
  }
  const decoded = decodeText(Buffer.concat(pieces));
  if ('problem' in decoded) throw new OncefleetError('INPUT_INVALID', `${file} ${decoded.problem}`);
  return decoded.text;
}

/** Searches as `answer` does. @throws OncefleetError COLLECTION_NOT_FOUND */
async function createSearch(
  fleet: Fleet,
  { embedding, tenant }: { embedding?: EmbeddingSettings | undefined; tenant: string },
): Promise<Find> {
  const [{ retrieve }, { Embedder }, { findCollection }, { asOwn }] = await Promise.all([
    import('../jobs/answer/retrieval.ts'),
    import('../jobs/embeddings/embedder.ts'),
    import('../db/documents.ts'),
    import('../db/own-schema.ts'),
  ]);
  const embedder = embedding === undefined ? undefined : new Embedder(embedding);
  const db = asOwn(fleet.db);
  return async ({ question, collection }, signal) => {
    const found = await findCollection(db, tenant, collection);
    if (found === undefined)
      throw new OncefleetError('COLLECTION_NOT_FOUND', `No collection ${JSON.stringify(collection)}`);
    // Without its vector a question measures another search than answers have.
    const vector = await embedder?.embedQuestion(question, signal).catch((error: Error) => {
      signal.throwIfAborted();
      throw new OncefleetError('MODEL_FAILED', `No vector: ${error.message}`, { cause: error });
    });
    const embed = vector === undefined ? undefined : async () => vector;
    const { chunks } = await retrieve(db, { collectionId: found.id, question, limit: SOURCES, embed });
    return { passages: chunks.map(({ path, heading, content }) => ({ path, heading, content })) };
  };
}

interface AnswerResult {
  text: string;
  sources: Passage[];
  citations: { total: number; invalid: number };
}

function createAsk(fleet: Fleet): Find {
  return async ({ question, collection }, signal) => {
    const handle = await fleet.enqueue('answer', { question, collection });
    const { text, sources, citations } = (await handle.result({ signal })) as AnswerResult;
    return { passages: sources, answer: { text, citations } };
  };
}

async function askAll(
  questions: readonly EvalQuestion[],
  find: Find,
  { interrupt, terminal, concurrency }: { interrupt: Interrupt; terminal: Terminal; concurrency: number },
): Promise<Judged[]> {
  const progress = new Progress(terminal, 'eval');
  const judged: Judged[] = [];
  const waiting = questions.entries();
  const work = async () => {
    for (const [index, question] of waiting) {
      if (interrupt.signal.aborted) throw new CommandInterruptedError(interrupt.by ?? 'SIGINT', 'Stopped asking');
      const outcome = await find(question, interrupt.signal).catch((error: unknown): Outcome => {
        const { code, message } = error as OncefleetError;
        // Of the question; a server that cannot be reached is none of its doing.
        if (!(error instanceof OncefleetError) || ['STORE_UNAVAILABLE', 'COLLECTION_NOT_FOUND'].includes(code))
          throw error;
        return { passages: [], error: { code, message } };
      });
      judged[index] = judge(question, outcome);
      progress.update({ done: judged.filter(() => true).length, total: questions.length });
    }
  };
  try {
    await Promise.all(Array.from({ length: concurrency }, work));
  } finally {
    progress.finish();
  }
  return judged;
}

export function judge(question: EvalQuestion, outcome: Outcome): Judged {
  const { path, heading, words } = question;
  const { passages, answer } = outcome;
  const names = path !== undefined || heading !== undefined;
  const searched = answer === undefined && outcome.error === undefined;
  const has = (text: string) => words.every((word) => fold(text).includes(fold(word)));
  const at = passages.findIndex(
    (one) =>
      (path === undefined || one.path === path) &&
      (heading === undefined || one.heading.split(' > ').some((part) => fold(part) === fold(heading))) &&
      // Without an answer, words say which passage is right.
      (!searched || has(one.content ?? '')),
  );
  const rank = names || searched ? (at === -1 ? 'none' : at + 1) : undefined;
  const hasWords = words.length === 0 || searched ? undefined : answer !== undefined && has(answer.text);
  return { question, rank, hasWords, outcome };
}

function fold(text: string): string {
  return text.normalize('NFKC').toLowerCase().replace(/\s+/g, ' ').trim();
}

/** Shares are `null` where there is nothing to count. */
interface Figures {
  questions: number;
  failed: number;
  recall: { of: number; hit1: number | null; hit3: number | null; hit5: number | null; mrr: number | null };
  words: { of: number; share: number | null };
  citations: { total: number; invalid: number; share: number | null };
}

export function figuresOf(judged: readonly Judged[]): Figures {
  const share = (count: number, of: number) => (of === 0 ? null : Math.round((count / of) * 10_000) / 10_000);
  const ranks = judged.flatMap(({ rank }) => (rank === undefined ? [] : [rank === 'none' ? Infinity : rank]));
  const hit = (k: number) => share(ranks.filter((rank) => rank <= k).length, ranks.length);
  const words = judged.flatMap(({ hasWords }) => (hasWords === undefined ? [] : [hasWords]));
  const citations = judged.flatMap(({ outcome }) => (outcome.answer === undefined ? [] : [outcome.answer.citations]));
  const sum = (field: 'total' | 'invalid') => citations.reduce((total, one) => total + one[field], 0);
  return {
    questions: judged.length,
    failed: judged.filter(({ outcome }) => outcome.error !== undefined).length,
    recall: {
      of: ranks.length,
      hit1: hit(1),
      hit3: hit(3),
      hit5: hit(5),
      mrr: share(
        ranks.reduce((total, rank) => total + 1 / rank, 0),
        ranks.length,
      ),
    },
    words: { of: words.length, share: share(words.filter(Boolean).length, words.length) },
    citations: {
      total: sum('total'),
      invalid: sum('invalid'),
      share: share(sum('total') - sum('invalid'), sum('total')),
    },
  };
}

async function print(terminal: Terminal, judged: readonly Judged[], figures: Figures): Promise<void> {
  const misses = judged.filter(
    ({ rank, hasWords, outcome }) => rank === 'none' || hasWords === false || outcome.error !== undefined,
  );
  if (terminal.json) {
    const listed = misses.map(({ question, rank, hasWords, outcome }) => ({
      line: question.line,
      question: question.question,
      ...(rank === 'none' ? { found: outcome.passages.map(({ path, heading }) => ({ path, heading })) } : {}),
      ...(hasWords === false ? { text: outcome.answer?.text ?? '' } : {}),
      ...(outcome.error === undefined ? {} : { error: outcome.error }),
    }));
    return terminal.jsonLine(JSON.stringify({ ...figures, misses: listed }));
  }
  for (const { question, outcome, rank } of misses.slice(0, MAX_NAMED)) {
    const why =
      outcome.error?.message ??
      (rank === 'none' ? 'its passage is not among the sources' : 'its words are not in the answer');
    terminal.note(`${question.line}: ${question.question}: ${why}`);
  }
  if (misses.length > MAX_NAMED) terminal.note(`and ${misses.length - MAX_NAMED} more`);
  const percent = (value: number | null) => (value === null ? '' : `${(value * 100).toFixed(1)} %`);
  const { recall, words, citations, failed } = figures;
  const rows = [
    ['among the first source', percent(recall.hit1), `of ${recall.of}`],
    ['among the first 3', percent(recall.hit3), ''],
    ['among the first 5', percent(recall.hit5), recall.mrr === null ? '' : `MRR ${recall.mrr.toFixed(2)}`],
    ...(words.of === 0 ? [] : [['answers with their words', percent(words.share), `of ${words.of}`]]),
    ...(citations.total === 0 ? [] : [['citations that hold', percent(citations.share), `of ${citations.total}`]]),
  ];
  const title = `${counted(figures.questions, 'question')}${failed === 0 ? '' : `, ${failed} failed`}`;
  for (const line of formatTable([title, '', ''], rows)) await terminal.line(line);
}

/** @throws OncefleetError EVAL_FAILED with each share that is below what was asked for */
function requireShares(figures: Figures, { minRecall, minWords, minCitations }: EvalOptions): void {
  const wanted = [
    ['recall (first five)', figures.recall.hit5, minRecall],
    ['words', figures.words.share, minWords],
    ['citations', figures.citations.share, minCitations],
  ] as const;
  const below = wanted.flatMap(([what, share, least]) => {
    if (least === undefined || (share !== null && share >= least)) return [];
    return [share === null ? `${what}: nothing to count` : `${what}: ${share}, less than ${least}`];
  });
  if (below.length > 0) throw new OncefleetError('EVAL_FAILED', below.join('; '), { details: { ...figures } });
}
