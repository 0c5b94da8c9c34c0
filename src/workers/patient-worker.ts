/** A BullMQ worker that waits when Redis refuses to give it a job. BullMQ's own asks again in the same turn. */
import { Worker } from 'bullmq';

/** The first pause after a refusal, ms. It doubles with each one in a row. */
const FIRST_PAUSE_MS = 100;

const LONGEST_PAUSE_MS = 2_000;

export class PatientWorker extends Worker {
  #refusals = 0;
  #wake: (() => void) | undefined;

  // BullMQ calls it in a loop that has no pause of its own after an error: at best that is a flood of
  // commands and log lines, and where the error comes without asking Redis it takes the event loop for good.
  protected override async moveToActive(
    ...args: Parameters<Worker['moveToActive']>
  ): ReturnType<Worker['moveToActive']> {
    try {
      const job = await super.moveToActive(...args);
      this.#refusals = 0;
      return job;
    } catch (error) {
      await this.#pause(Math.min(FIRST_PAUSE_MS * 2 ** this.#refusals++, LONGEST_PAUSE_MS));
      throw error;
    }
  }

  // BullMQ waits for 5 s where a read that blocks was refused.
  override delay(...[milliseconds, abort]: Parameters<Worker['delay']>): Promise<void> {
    return super.delay(milliseconds ?? LONGEST_PAUSE_MS, abort);
  }

  override close(force?: boolean): Promise<void> {
    const closed = super.close(force);
    this.#wake?.();
    return closed;
  }

  async #pause(ms: number): Promise<void> {
    if (this.closing !== undefined) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = undefined;
  }
}
