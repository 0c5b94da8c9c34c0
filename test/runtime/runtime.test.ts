import type { CompiledQuery } from 'kysely';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import type { ClaimedJob } from '../../src/db/jobs/claim.ts';
import { Runtime } from '../../src/runtime/runtime.ts';
import { uuidV7 } from '../../src/util/uuid.ts';
import { connectionLost } from '../helpers/faulty-db.ts';
import { claimFree, insertJob, rowOf, settlement, useDatabase } from '../helpers/fixtures.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

/** Observers would be told of it. */
const CLAIMED = {} as ClaimedJob;

/** What a process shares, and the outcomes it announces. */
function createRuntime() {
  const runtime = new Runtime({ databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: uniquePrefix() });
  onTestFinished(() => runtime.close());
  const announced: unknown[] = [];
  vi.spyOn(runtime.publisher, 'publish').mockImplementation((given) => void announced.push(...given));
  const endings: string[] = [];
  vi.spyOn(runtime.publisher, 'publishEndings').mockImplementation((ids) => void endings.push(...ids));
  return { runtime, announced, endings };
}

async function claimed(): Promise<string> {
  const id = await insertJob(file.db);
  await claimFree(file.db, id);
  return id;
}

describe('an outcome', () => {
  it('is recognised when its answer was lost, and announced', async () => {
    const { runtime, announced } = createRuntime();
    const { kysely } = runtime.db;
    const execute = kysely.executeQuery.bind(kysely) as (query: CompiledQuery) => Promise<unknown>;
    let lost = 0;
    vi.spyOn(kysely, 'executeQuery').mockImplementation((async (query: CompiledQuery) => {
      const result = await execute(query);
      if (lost++ === 0) throw connectionLost();
      return result;
    }) as never);
    const id = await claimed();
    const end = settlement(id, 1, {
      batch: { streamId: id, fence: 1, firstSeq: 0, events: ['{"type":"end","result":1}'] },
    });
    await expect(runtime.transitions.settle(end, CLAIMED)).rejects.toThrow('Connection terminated');
    expect(await runtime.transitions.settle(end, CLAIMED)).toBe(true);
    expect(announced).toEqual([{ batch: end.batch, end: true }]);
  });

  it('of an eventless job is announced, with nothing but that it is there to be read', async () => {
    const { runtime, endings } = createRuntime();
    const id = await claimed();
    expect(await runtime.transitions.settle(settlement(id, 1), CLAIMED)).toBe(true);
    expect(endings).toEqual([id]);
  });

  it('that Postgres refuses is refused alone', async () => {
    const { runtime } = createRuntime();
    const [bad, good] = [await claimed(), await claimed()];
    const outcomes = await Promise.allSettled([
      runtime.transitions.settle(settlement(bad, 1, { result: 'not json' }), CLAIMED),
      runtime.transitions.settle(settlement(good, 1), CLAIMED),
    ]);
    expect(outcomes).toMatchObject([{ status: 'rejected' }, { status: 'fulfilled', value: true }]);
    expect((await rowOf(file.db, good)).status).toBe('completed');
    expect((await rowOf(file.db, bad)).status).toBe('running');
  });
});

describe('a claim', () => {
  it('that Postgres refuses fails alone', async () => {
    const { runtime } = createRuntime();
    const request = { ttlMs: 60_000, maxCrashes: 5, delivery: 0, own: true };
    const good = await insertJob(file.db);
    const answers = await Promise.allSettled([
      runtime.transitions.claim({ ...request, id: 'no uuid', owner: uuidV7() }),
      runtime.transitions.claim({ ...request, id: good, owner: uuidV7() }),
    ]);
    expect(answers).toMatchObject([{ status: 'rejected' }, { status: 'fulfilled', value: { decision: 'claimed' } }]);
  });
});
