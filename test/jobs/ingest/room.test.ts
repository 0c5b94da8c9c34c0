/** What the ingest jobs of a process hold in memory together. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Db } from '../../../src/db/client.ts';
import { createIngestJob } from '../../../src/jobs/ingest/ingest-job.ts';
import { Room } from '../../../src/jobs/ingest/room.ts';
import { createTestDatabase, type TestDatabase } from '../../helpers/services.ts';
import { openTestDb, runAttempt } from './run-job.ts';

const never = new AbortController().signal;

describe('a room', () => {
  function stage(limit: number) {
    const room = new Room(limit);
    const inside: string[] = [];
    const enter = async (name: string, length: number, signal = never) => {
      const leave = await room.enter(length, signal);
      inside.push(name);
      return () => {
        if (inside.includes(name)) inside.splice(inside.indexOf(name), 1);
        leave();
      };
    };
    const settled = () => new Promise((resolve) => setImmediate(resolve));
    return { inside, enter, settled };
  }

  it('lets in what fits, in the order of calls', async () => {
    const { inside, enter, settled } = stage(10);
    const [a, b] = [await enter('a', 4), await enter('b', 6)];
    const [c, d] = [enter('c', 5), enter('d', 1)];
    await settled();
    expect(inside).toEqual(['a', 'b']);
    a();
    await settled();
    // There is room for d and e, and c is before them.
    const e = enter('e', 1);
    await settled();
    expect(inside).toEqual(['b']);
    b();
    await Promise.all([c, d, e]);
    expect(inside).toEqual(['c', 'd', 'e']);
  });

  it('has something larger alone', async () => {
    const { inside, enter, settled } = stage(10);
    const a = await enter('a', 1);
    const large = enter('large', 100);
    const after = enter('after', 1);
    await settled();
    expect(inside).toEqual(['a']);
    a();
    const leave = await large;
    await settled();
    expect(inside).toEqual(['large']);
    leave();
    await after;
    expect(inside).toEqual(['after']);
  });

  it('is left once, however often that is said', async () => {
    const { inside, enter, settled } = stage(10);
    const a = await enter('a', 10);
    a();
    a();
    await enter('b', 10);
    void enter('c', 10);
    await settled();
    expect(inside).toEqual(['b']);
  });

  it('is given up by who has no use for it any more, and those behind come in', async () => {
    const { inside, enter, settled } = stage(10);
    await enter('a', 6);
    const stop = new AbortController();
    const gone = expect(enter('large', 8, stop.signal)).rejects.toThrow('stopped');
    const behind = enter('behind', 4);
    await settled();
    stop.abort(new Error('stopped'));
    await gone;
    await behind;
    expect(inside).toEqual(['a', 'behind']);
    await expect(enter('late', 1, stop.signal)).rejects.toThrow('stopped');
  });
});

describe('an ingest', () => {
  let database: TestDatabase;
  let db: Db;
  beforeAll(async () => {
    database = await createTestDatabase();
    db = openTestDb(database.url);
  });
  afterAll(async () => {
    await db?.close();
    await database?.drop();
  });

  it('that ends early holds nothing of what it had read ahead', async () => {
    const job = createIngestJob();
    const documents = Array.from({ length: 60 }, (_, n) => ({
      path: `${n}.md`,
      content: `# ${n}\n\n${'Text. '.repeat(100)}`,
    }));
    const failed = runAttempt(db, job, { collection: 'early', documents }, { crashInTransaction: true });
    await expect(failed.result).rejects.toThrow();
    // With anything else inside, this one would wait.
    const large = [{ path: 'large.md', content: 'Words of a large document. '.repeat(320_000) }];
    await runAttempt(db, job, { collection: 'early', documents: large }).result;
  }, 60_000);
});
