/** How columns are read, and what is written into them. */
import type { ColumnType } from 'kysely';

/** Exact JSON text; written from a string, never parsed on the way. */
export type JsonText = string;
export type Timestamp = ColumnType<Date, Date | string | undefined, Date | string>;
export type NullableTimestamp = ColumnType<Date | null, Date | string | null | undefined, Date | string | null>;
