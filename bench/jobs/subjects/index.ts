import { bullmq } from './bullmq.ts';
import { graphileWorker } from './graphile-worker.ts';
import { naive } from './naive.ts';
import { oncefleet } from './oncefleet.ts';
import { pgBoss } from './pg-boss.ts';
import type { Subject, SubjectName } from './subject.ts';

/** In the order of tables and charts. */
export const subjects: Readonly<Record<SubjectName, Subject>> = {
  bullmq,
  naive,
  oncefleet,
  'pg-boss': pgBoss,
  'graphile-worker': graphileWorker,
};
