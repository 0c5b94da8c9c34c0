import type { Queue } from 'bullmq';
import type { UnfinishedCursor } from '../../db/jobs/unfinished.ts';
import { findWaitingOf } from '../../db/operator.ts';
import { endRows } from './end.ts';
import { definitionsOf, type OperatorHost, PAGE } from './host.ts';
import { removeAll } from './remove.ts';

export async function obliterate(host: OperatorHost, queue: Queue, { force }: { force: boolean }): Promise<void> {
  const { pauses, db } = host.runtime;
  if (!force && (await queue.getActiveCount()) > 0) throw new Error('Cannot obliterate queue with active jobs');
  await pauses.align([queue]);
  await removeAll(host, queue, ['delayed', 'wait', 'paused', 'prioritized', 'waiting-children']);
  const names = definitionsOf(host, queue).map((job) => job.name);
  let after: UnfinishedCursor | undefined;
  if (names.length > 0) {
    do {
      const page = await findWaitingOf(db.kysely, { queue: queue.name, names }, { after, limit: 5 * PAGE });
      for (let i = 0; i < page.rows.length; i += PAGE) await endRows(host, page.rows.slice(i, i + PAGE));
      after = page.end;
    } while (after !== undefined);
  }
  await queue.obliterate({ force });
  await pauses.align([queue]);
}
