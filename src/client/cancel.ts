import { setTimeout as delay } from 'node:timers/promises';
import { crashPoint } from '../crash-points.ts';
import { requestCancel } from '../db/jobs/cancel.ts';
import { isTerminalStatus } from '../db/jobs/states.ts';
import { isUuid } from '../util/uuid.ts';
import { type ClientHost, notFound, tenantIn } from './host.ts';
import type { CancelResult } from './types.ts';

/** How often a cancel looks again at a row that is locked; a quarter of a second in all. */
const CANCEL_ROUNDS = 5;

export async function cancelJob(
  host: ClientHost,
  id: string,
  options: { tenant?: string } = {},
): Promise<CancelResult> {
  const { runtime } = host;
  const tenant = tenantIn(host, 'cancel', options);
  for (let round = 0; ; round++) {
    const met = isUuid(id) ? await requestCancel(runtime.db.kysely, tenant, id) : undefined;
    if (met === undefined) throw notFound(id);
    crashPoint('cancel.asked');
    if (isTerminalStatus(met.status)) {
      // In a later round: somebody else has ended it for us, or it ended by itself first.
      const outcome = round > 0 && met.status === 'cancelled' ? 'cancelled' : 'finished';
      return { status: met.status, outcome };
    }
    if (!met.live) {
      const finished = await runtime.transitions.finish(id, {
        by: 'client',
        definition: undefined,
        cancel: 'requested',
        committed: 'cancel.ended',
      });
      if (finished !== undefined) return { status: 'cancelled', outcome: 'cancelled' };
      // Its row is locked: by a claim, which will see the cancel, or by what ends it just now.
      if (round < CANCEL_ROUNDS) {
        await delay(2 ** round * 5);
        continue;
      }
    }
    // It is running: its run hears of the cancel here, or at the next heartbeat.
    runtime.control.cancel(id);
    return { status: met.status, outcome: 'requested' };
  }
}
