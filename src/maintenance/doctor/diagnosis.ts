/** What the doctor reports: findings, for people and as JSON. */
import type { RowState } from '../../db/doctor.ts';
import type { BullJob } from '../bullmq-jobs.ts';
import { DISAGREEMENTS, type DisagreementKind } from './disagreements.ts';
import type { Suspect } from './scan.ts';

/** Jobs named in a finding; all are counted and repaired. */
const MAX_NAMED = 100;

/** Troubles of a kind that one finding spells out. */
const MAX_TROUBLES = 5;

/** What a fleet can suffer from that is no disagreement about one job. */
export type Trouble =
  | 'redis-evicts'
  | 'redis-old'
  | 'postgres-old'
  | 'database-locale'
  | 'postgres-settings'
  | 'clock-skew'
  | 'queue-paused'
  | 'pause-differs'
  | 'no-workers'
  | 'no-reconciler'
  | 'poison-alerts'
  | 'unknown-names'
  | 'schedules-behind'
  | 'dead-rows'
  | 'long-transaction';

export interface Finding {
  kind: DisagreementKind | Trouble;
  /** What is wrong, for people. */
  message: string;
  /** What to do about it, or what was done. */
  remedy: string;
  /** Jobs or queues concerned; 0 for what is no matter of either. */
  count: number;
  /** Of `count`, those that are in order now. */
  repaired: number;
  /** The first hundred. */
  jobs: { id: string; queue: string; row: RowState['status'] | null; bullmq: BullJob['state'] | null }[];
}

export interface Diagnosis {
  findings: Finding[];
  looked: { rows: number; bullmqJobs: number; streams: number };
  /** Nothing was found, or all of it was repaired. */
  well: boolean;
}

/** @param left of `found`, those that are still wrong after the repair */
export function toFindings(found: readonly Suspect[], left: readonly Suspect[], fixed: boolean): Finding[] {
  const order = Object.keys(DISAGREEMENTS) as DisagreementKind[];
  const byKind = Map.groupBy(found, (suspect) => suspect.kind);
  return order.flatMap((kind) => {
    const group = byKind.get(kind);
    if (group === undefined) return [];
    const { means, fix } = DISAGREEMENTS[kind];
    const repaired = fixed ? group.length - left.filter((suspect) => suspect.kind === kind).length : 0;
    return [
      {
        kind,
        message: `${group.length} ${group.length === 1 ? 'job' : 'jobs'}: ${means}.`,
        remedy: fixed ? `${repaired} ${fix}.` : `--fix: ${fix}.`,
        count: group.length,
        repaired,
        jobs: group
          .slice(0, MAX_NAMED)
          .map(({ id, queue, row, bull }) => ({ id, queue, row: row?.status ?? null, bullmq: bull?.state ?? null })),
      },
    ];
  });
}

/** One finding for each kind: a hundred paused queues must not bury what else is wrong. */
export function oneOfAKind(troubles: readonly Finding[]): Finding[] {
  return Map.groupBy(troubles, ({ kind }) => kind)
    .values()
    .map((alike) => {
      const more = alike.length - MAX_TROUBLES;
      const messages = alike.slice(0, MAX_TROUBLES).map(({ message }) => message);
      if (more > 0) messages.push(`And ${more} more like ${more === 1 ? 'it' : 'them'}.`);
      const remedies = new Set(alike.slice(0, MAX_TROUBLES).map(({ remedy }) => remedy));
      return { ...(alike[0] as Finding), message: messages.join(' '), remedy: [...remedies].join(' ') };
    })
    .toArray();
}
