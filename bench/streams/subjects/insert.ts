import pg from 'pg';
import { uuidV7 } from '../../../src/util/uuid.ts';
import { ROWS, rowsTemplate } from './rows.ts';
import type { Subject } from './subject.ts';

const CONNECTIONS = 10;

/** One INSERT and commit an event, prepared; nothing is published. */
export const insert: Subject = {
  name: 'insert',
  title: 'INSERT per event',
  template: rowsTemplate,
  tables: [ROWS],
  events: (streams) => (streams === 1 ? 2_000 : 10_000),
  async write({ databaseUrl }) {
    const pool = new pg.Pool({ connectionString: databaseUrl, max: CONNECTIONS });
    const seqs = new Map<string, number>();
    return {
      async open(count) {
        return Array.from({ length: count }, () => uuidV7());
      },
      async emit(streamId, event) {
        const seq = seqs.get(streamId) ?? 0;
        seqs.set(streamId, seq + 1);
        await pool.query({
          name: 'insert',
          text: `insert into ${ROWS} (stream_id, seq, event) values ($1, $2, $3)`,
          values: [streamId, seq, JSON.stringify(event)],
        });
      },
      async settle() {},
      close: () => pool.end(),
    };
  },
};
