/** `npm run bench -- job-search`: the console's searches among a million jobs of several tenants. */

import type { InspectFilter } from '../../src/db/jobs/inspect.ts';
import { createFleet } from '../../src/index.ts';
import { execute } from '../../src/testing/services/databases.ts';
import { numberOption } from '../lib/arguments.ts';
import type { Bench, BenchContext, BenchOptions, BenchResult } from '../lib/bench.ts';
import { now } from '../lib/clock.ts';
import { type Place, Places, settle } from '../lib/databases.ts';
import { prepareOncefleet } from '../lib/oncefleet.ts';
import { percentile, round } from '../lib/stats.ts';
import { formatNumber } from '../lib/table.ts';

const WHOLE = { jobs: 1_000_000, searches: 40 };
const QUICK = { jobs: 5_000, searches: 2 };
const PAGE = 50;
/** Pages of a case that are read by their cursors. */
const PAGES = 5;

interface Plan {
  jobs: number;
  /** Of each case; the first is left out. */
  searches: number;
}

interface Finding {
  name: string;
  found: number;
  pages: number;
  p50Ms: number;
  p95Ms: number;
}

/**
 * Two of three jobs are of one tenant, and 60 tenants share a tenth. 3 % failed: most by the same timeout, some with a word
 * that no other error has; one of a thousand was cancelled, and one queue has 20 jobs, the oldest.
 */
const JOBS = (count: number) => `
  insert into oncefleet.jobs (id, tenant, name, queue, idempotency_key, fingerprint, input, options, status, fence, worker,
    claimed_at, last_outcome, result, error, created_at, started_at, finished_at)
  select
    ('01980000-' || lpad(to_hex(n / 4096), 4, '0') || '-7' || lpad(to_hex(n % 4096), 3, '0') || '-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
    case when n % 100 < 66 then 'large' when n % 100 < 90 then 'middle' else 'small-' || n % 60 end,
    'job-' || n % 7, case when n <= 20 then 'rare' else 'queue-' || n % 7 end, 'key-' || n, 'f',
    json_build_object('text', repeat('x', 200)), '{"priority":0,"attempts":3}', s.status,
    1, 'host:1:abc', t.at, case when s.status = 'pending' then null else s.status end,
    case when s.status = 'completed' then '{"ok":true}'::json end,
    case s.status
      when 'failed' then ('{"code":"' || case when n % 100000 = 0 then 'RARE_CODE' when n % 3 = 0 then 'TIMEOUT' else 'HANDLER_FAILED' end
        || '","message":"' || case when n <= 600 then 'the zebra crossed the road at number ' || n
          else 'request to https://api.example.com/v1/things timed out after ' || n % 977 || ' ms' end || '"}')::json
      when 'cancelled' then '{"code":"CANCELLED","message":"The job was cancelled"}'::json end,
    t.at, t.at, case when s.status <> 'pending' then t.at end
  from generate_series(1, ${count}) n
  cross join lateral (select case when n > ${count} - 500 then 'pending' when n % 1000 = 1 then 'cancelled'
    when n % 100 in (0, 71, 95) then 'failed' else 'completed' end as status) s
  cross join lateral (select now() - (${count} - n) * interval '1 s' as at) t`;
const UNFINISHED = `
  insert into oncefleet.unfinished_jobs (job_id, run_at) select id, run_at from oncefleet.jobs where status = 'pending'`;

const CASES: readonly (readonly [name: string, filter: InspectFilter])[] = [
  ['nothing: the newest', {}],
  ['key', { key: 'key-4242' }],
  ['key, tenant', { key: 'key-4200', tenant: 'large' }],
  ['tenant', { tenant: 'large' }],
  ['tenant, a small one', { tenant: 'small-31' }],
  ['name', { name: 'job-3' }],
  ['name, tenant', { name: 'job-3', tenant: 'large' }],
  ['queue', { queue: 'queue-3' }],
  ['queue, one of 20 old jobs', { queue: 'rare' }],
  ['queue, one of 20 old jobs, tenant', { queue: 'rare', tenant: 'large' }],
  ['status completed', { status: 'completed' }],
  ['status failed', { status: 'failed' }],
  ['status failed, a small tenant', { status: 'failed', tenant: 'small-35' }],
  ['status cancelled', { status: 'cancelled' }],
  ['status pending, tenant', { status: 'pending', tenant: 'middle' }],
  ['error code', { code: 'TIMEOUT' }],
  ['error code, a rare one', { code: 'RARE_CODE' }],
  ['error code, tenant', { code: 'TIMEOUT', tenant: 'middle' }],
  ['words, common ones', { words: ['timed', 'things'] }],
  ['words, of the 18 oldest errors', { words: ['zebra'] }],
  ['words, a number in thousands', { words: ['timed', '512'] }],
  ['words, that no error has', { words: ['elephant'] }],
  ['words, code, tenant, queue', { words: ['timed'], code: 'TIMEOUT', tenant: 'large', queue: 'queue-2' }],
];

export const jobSearchBench: Bench = {
  name: 'job-search',
  summary: "the console's searches among a million jobs",
  packages: ['pg', 'kysely'],
  method: [
    'One statement makes the jobs: two of three are of one tenant, 60 tenants share a tenth; 3 % failed, nearly all by the same two codes and one sentence; some words, a code and a queue are of few and old jobs.',
    '',
    `A search is what the console's page asks for: up to ${PAGE} jobs, the counts by status, and the jobs' rows. Each case reads ${PAGES} pages by their cursors, as far as there are so many, again and again; the figures are of single pages. Everything is in memory after a first round, which is left out.`,
    '',
    '- Found: jobs on those pages. A search that finds nothing has looked at all that its index has.',
    '- A look at the newest rows takes in 5,000; counts by status are of those. A status, a code and words are looked up among all jobs.',
  ].join('\n'),
  options: {
    jobs: { about: 'jobs in the table' },
    searches: { about: 'rounds of each case' },
  },
  plan,
};

function plan({ quick, own }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  const sizes = quick ? QUICK : WHOLE;
  const wanted: Plan = {
    jobs: numberOption(own, 'jobs', sizes.jobs),
    searches: numberOption(own, 'searches', sizes.searches),
  };
  return (context) => run(context, wanted);
}

async function run({ services, signal, say }: BenchContext, wanted: Plan): Promise<BenchResult> {
  const places = new Places(services);
  try {
    const place = await places.create('oncefleet', prepareOncefleet);
    const begun = now();
    await execute(place.databaseUrl, JOBS(wanted.jobs));
    await execute(place.databaseUrl, UNFINISHED);
    await settle(place.databaseUrl);
    say(`${formatNumber(wanted.jobs)} jobs in ${Math.round((now() - begun) / 1_000)} s`);
    return report(await measure(place, wanted, { signal, say }), wanted);
  } finally {
    await places.close();
  }
}

async function measure(
  { databaseUrl, redisUrl, prefix }: Place,
  { searches }: Plan,
  { signal, say }: Pick<BenchContext, 'signal' | 'say'>,
): Promise<Finding[]> {
  const fleet = createFleet({ databaseUrl, redisUrl, prefix, jobs: [] });
  const findings: Finding[] = [];
  try {
    for (const [name, filter] of CASES) {
      const times: number[] = [];
      let found = 0;
      let pages = 0;
      for (let round = 0; round <= searches; round++) {
        signal.throwIfAborted();
        let before: string | undefined;
        [found, pages] = [0, 0];
        do {
          const at = now();
          const page = await fleet.inspector.search({ ...filter, before }, PAGE);
          if (round > 0) times.push(now() - at);
          found += page.jobs.length;
          pages++;
          before = page.nextCursor ?? undefined;
        } while (before !== undefined && pages < PAGES);
      }
      const finding = { name, found, pages, p50Ms: percentile(times, 50), p95Ms: percentile(times, 95) };
      findings.push(finding);
      say(`${name}: ${found} found on ${pages} pages, p95 ${formatNumber(finding.p95Ms)} ms`);
    }
  } finally {
    await fleet.close();
  }
  return findings;
}

function report(findings: readonly Finding[], { jobs, searches }: Plan): BenchResult {
  return {
    rows: findings.map(({ name, found, pages, p50Ms, p95Ms }) => ({
      case: name,
      jobs,
      searches,
      found,
      pages,
      p50Ms: round(p50Ms),
      p95Ms: round(p95Ms),
    })),
    tables: [
      {
        title: 'Searches of jobs',
        about: `Among ${formatNumber(jobs)} jobs, a page of ${PAGE}, in ms.`,
        columns: ['searched by', 'found', 'pages', 'p50', 'p95'],
        rows: findings.map(({ name, found, pages, p50Ms, p95Ms }) => [
          name,
          formatNumber(found),
          String(pages),
          formatNumber(p50Ms),
          formatNumber(p95Ms),
        ]),
      },
    ],
    charts: [],
  };
}
