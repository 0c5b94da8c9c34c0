/** Postgres and Redis for a clone: by default in its `.oncefleet/`, and installed where that is possible. */
import { join } from 'node:path';
import { type Services, type ServicesOptions, startServices as start } from '../src/testing/services/index.ts';
import { ROOT } from './root.ts';

export type { Services, ServicesOptions };

/** @throws OncefleetError SERVICE_MISSING; nothing is left running */
export function startServices(options: ServicesOptions): Promise<Services> {
  return start({ home: join(ROOT, '.oncefleet'), install: true, ...options });
}
