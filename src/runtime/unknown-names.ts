/** Jobs whose name this worker does not know, on a queue that it shares with workers that may. */
import { DelayedError, type Job } from 'bullmq';
import type { Logger } from '../log.ts';
import type { Control } from './control.ts';

/** The first pause, in ms: another worker of the queue may know the name, and is free in a moment. */
const FIRST_WAIT_MS = 250;

/** The longest, in ms, where no worker with room knows the name (`left-jobs.ts`). */
const LONGEST_WAIT_MS = 30_000;

/** A name that no worker has known for this long is a mistake and no deploy. */
export const UNKNOWN_ALERT_MS = 24 * 3600 * 1000;

/** Names that were told of; what is forgotten is told again. */
const MAX_NAMES = 1_000;

export class UnknownNames {
  readonly #log: Logger;
  readonly #control: Pick<Control, 'leave'>;
  readonly #told = new Set<string>();
  readonly #alerted = new Set<string>();

  constructor({ log, control }: { log: Logger; control: Pick<Control, 'leave'> }) {
    this.#log = log;
    this.#control = control;
  }

  /** Leaves a job to another worker; it spends no attempt. */
  async leave(job: Job, token: string | undefined): Promise<never> {
    const { name: jobName, queueName: queue } = job;
    const place = `${queue}\n${jobName}`;
    if (isNew(this.#told, place))
      this.#log.warn({ jobName, queue }, 'job of a name this worker does not know: left to another');
    if (Date.now() - job.timestamp > UNKNOWN_ALERT_MS && isNew(this.#alerted, place))
      this.#log.error(
        { alert: 'job_name_unknown', jobName, queue, bullJobId: job.id },
        'no worker has known the name of this job for a day: deploy one that does, or remove the job',
      );
    const waitMs = Math.min(FIRST_WAIT_MS * 2 ** Math.min(Math.max(job.attemptsStarted - 1, 0), 10), LONGEST_WAIT_MS);
    await job.moveToDelayed(Date.now() + Math.round(waitMs * (0.75 + Math.random() / 4)), token);
    this.#control.leave({ queue, name: jobName, id: job.id as string });
    throw new DelayedError();
  }
}

function isNew(known: Set<string>, place: string): boolean {
  if (known.has(place)) return false;
  if (known.size >= MAX_NAMES) known.clear();
  known.add(place);
  return true;
}
