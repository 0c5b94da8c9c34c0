/** One row an event, as plain as a table can be that orders them. */
import { execute } from '../../../src/testing/services/databases.ts';
import type { Subject } from './subject.ts';

export const ROWS = 'bench_events';

export const rowsTemplate: Subject['template'] = {
  name: 'rows',
  async prepare(databaseUrl) {
    await execute(
      databaseUrl,
      `create table ${ROWS} (
        stream_id uuid not null,
        seq bigint not null,
        event json not null,
        created_at timestamptz not null default clock_timestamp(),
        primary key (stream_id, seq)
      )`,
    );
  },
};
