/** Searches of the console among many jobs: what few of them have is found, however old it is. */
import { type Kysely, sql, type Transaction } from 'kysely';
import { beforeAll, describe, expect, it } from 'vitest';
import { type InspectFilter, inspectJobs } from '../../../src/db/jobs/inspect.ts';
import { boundSearch } from '../../../src/db/jobs/search.ts';
import type { Database } from '../../../src/db/schema.ts';
import { useDatabase } from '../../helpers/fixtures.ts';

const file = useDatabase();
const JOBS = 12_000;

/** Numbered from the oldest; number 7 failed with words that no other error has, 8 was cancelled. */
const idOf = (n: number) => `01980000-0000-7000-8000-${n.toString(16).padStart(12, '0')}`;

beforeAll(async () => {
  await sql`
    insert into oncefleet.jobs (id, tenant, name, queue, idempotency_key, fingerprint, input, options, status, error, finished_at)
    select ('01980000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
      case when n % 10 = 7 then 'small' else 'large' end, 'job', case when n = 9 then 'rare' else 'usual' end,
      case when n < 20 then 'key-' || n end, 'f', 'null', '{}', s.status,
      case when n = 7 then ${JSON.stringify({ code: 'ODD "code"', message: "zebras\n\u0000\ud800 ate grass, don't ask /etc/zoo.conf" })}
        when s.status = 'failed' then '{"code":"USUAL","message":"it timed out"}' end::json,
      case when s.status <> 'pending' then clock_timestamp() end
    from generate_series(1, ${JOBS}::int) n
    cross join lateral (select case when n = 8 then 'cancelled' when n = 11 then 'pending' when n % 2 = 1 then 'failed'
      else 'completed' end as status) s`.execute(file.db);
  await sql`
    insert into oncefleet.unfinished_jobs (job_id, run_at) select id, run_at from oncefleet.jobs where status = 'pending'`.execute(
    file.db,
  );
  await sql`analyze oncefleet.jobs, oncefleet.failed_jobs`.execute(file.db);
});

const search = (filter: InspectFilter, limit = 50) =>
  file.db.transaction().execute(async (trx: Transaction<Database>) => {
    await boundSearch(trx, 5_000);
    return inspectJobs(trx, filter, limit);
  });

describe('a search finds, among more jobs than it looks at,', () => {
  it.each<[string, InspectFilter, number[]]>([
    ['words of one error', { words: ['zebras'] }, [7]],
    ['the beginnings of its words', { words: ['zeb', 'GRA'] }, [7]],
    ['what stands before and after a line break and NUL', { words: ['zebras', 'ate'] }, [7]],
    ['a word with a quote', { words: ["don't"] }, [7]],
    ['a part of a path', { words: ['zoo'] }, [7]],
    ['a path', { words: ['/etc/zoo.conf'] }, [7]],
    ['parts of a path in another order', { words: ['/zoo/etc'] }, []],
    ['words and code and tenant', { words: ['ask'], code: 'ODD "code"', tenant: 'small', queue: 'usual' }, [7]],
    ['a code', { code: 'ODD "code"' }, [7]],
    ['a code with a key', { code: 'ODD "code"', key: 'key-7' }, [7]],
    ['words with a key of another error', { words: ['zebras'], key: 'key-9' }, []],
    ['the words of another tenant', { words: ['zebras'], tenant: 'large' }, []],
    ['the end of a word', { words: ['ebras'] }, []],
    ['no word at all', { words: ['%'] }, []],
    ['a word with NUL', { words: ['\0'] }, []],
    ['a status that one has', { status: 'cancelled' }, [8]],
    ['one that waits', { status: 'pending' }, [11]],
    ['one that waits, in another tenant', { status: 'pending', tenant: 'small' }, []],
    ['a queue', { queue: 'rare' }, [9]],
    ['a queue of a tenant', { queue: 'rare', tenant: 'large' }, [9]],
    ['a queue of another tenant', { queue: 'rare', tenant: 'small' }, []],
  ])('%s: %j', async (_what, filter, found) => {
    expect((await search(filter)).ids).toEqual(found.map(idOf));
  });

  it('common words and their cursor, each once and newest first', async () => {
    const seen: string[] = [];
    let before: string | undefined;
    do {
      const page = await search({ words: ['timed'], before }, 700);
      seen.push(...page.ids);
      before = page.end;
    } while (before !== undefined);
    expect(seen).toEqual([...new Set(seen)].toSorted().toReversed());
    // All odd numbers but 7 and 11.
    expect(seen).toHaveLength(JOBS / 2 - 2);
  });
});

it('the table of failed jobs follows the rows: ends, redrives, removals', async () => {
  const db = file.db as Kysely<Database>;
  const listed = async () => (await search({ words: ['giraffe'] })).ids;
  const id = idOf(JOBS - 1_000);
  await sql`update oncefleet.jobs set status = 'failed', error = '{"code":"X","message":"a giraffe"}' where id = ${id}`.execute(
    db,
  );
  expect(await listed()).toEqual([id]);
  await sql`update oncefleet.jobs set status = 'pending', finished_at = null, error = null where id = ${id}`.execute(
    db,
  );
  expect(await listed()).toEqual([]);
  await sql`update oncefleet.jobs set status = 'failed', finished_at = now(), error = '{"code":"X","message":"a giraffe"}' where id = ${id}`.execute(
    db,
  );
  expect(await listed()).toEqual([id]);
  await sql`delete from oncefleet.jobs where id = ${id}`.execute(db);
  expect(await listed()).toEqual([]);
});
