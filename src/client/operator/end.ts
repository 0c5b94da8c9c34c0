/** Cancelling rows that nobody runs. */
import { setTimeout as delay } from 'node:timers/promises';
import { findShownRows, type ShownRow } from '../../db/operator.ts';
import { type Delivery, isOver, rowsToEnd } from './deliveries.ts';
import type { OperatorHost } from './host.ts';

/** How often an end looks again at rows that are locked; a quarter of a second in all. */
const END_ROUNDS = 6;

/** `ended`: by this call; `over`: it had ended before; `running`: somebody runs it, or has it locked. */
type Ending = 'ended' | 'over' | 'running';

export async function endRowOf(host: OperatorHost, delivery: Delivery): Promise<Ending> {
  const [row] = rowsToEnd([delivery]);
  return row === undefined ? 'over' : ((await endRows(host, [row])).get(row.id) ?? 'over');
}

/** Cancels jobs that nobody runs. */
export async function endRows(host: OperatorHost, rows: readonly ShownRow[]): Promise<Map<string, Ending>> {
  const { db } = host.runtime;
  const endings = new Map<string, Ending>();
  let open = [...new Map(rows.map((row) => [row.id, row])).values()];
  for (let round = 0; open.length > 0; round++) {
    const pending = open.filter((row) => row.status === 'pending');
    for (const id of await cancelPending(host, pending)) endings.set(id, 'ended');
    const locked: string[] = [];
    for (const row of open) {
      if (endings.has(row.id)) continue;
      if (isOver(row)) endings.set(row.id, 'over');
      else if (row.held) endings.set(row.id, 'running');
      else if (row.status === 'running' && (await endAbandoned(host, row.id))) endings.set(row.id, 'ended');
      else locked.push(row.id);
    }
    if (locked.length === 0) break;
    if (round === END_ROUNDS) {
      for (const id of locked) endings.set(id, 'running');
      break;
    }
    // By a claim, which may make it a running one, or by what ends it just now.
    await delay(2 ** round * 2);
    open = [...(await findShownRows(db.kysely, locked)).values()];
  }
  return endings;
}

/** @returns the ids of those that are cancelled; the others are locked or no longer pending */
async function cancelPending({ runtime }: OperatorHost, rows: readonly ShownRow[]): Promise<string[]> {
  const cancelled = await runtime.transitions.cancelWaiting(
    rows.map(({ id }) => id),
    'board',
  );
  for (const jobId of cancelled) runtime.log.info({ jobId }, 'job cancelled by an operator');
  return cancelled;
}

async function endAbandoned({ runtime }: OperatorHost, id: string): Promise<boolean> {
  return (await runtime.transitions.finish(id, { by: 'board', definition: undefined, cancel: 'now' })) !== undefined;
}
