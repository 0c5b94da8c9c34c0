import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'alert-taken-out',
    find: '// Also when it resolves after it was waited for. await this.#takeOut(alert);',
    replace: '',
    mechanism: 'an alert whose hook has resolved is taken out',
    test: 'test/runtime/poison-alerts.test.ts',
    title: 'of a job without onPoison is taken out at once, and logged',
  },
  {
    name: 'alert-after-hook',
    find: 'await job.onPoison?.(told);',
    replace: 'await this.#takeOut(alert); await job.onPoison?.(told);',
    mechanism: 'an alert is taken out after its hook has resolved, not before',
    test: 'test/runtime/poison-alerts.test.ts',
    title: 'that throws is called again after a while, until it resolves',
  },
  {
    name: 'alert-given-up',
    find: 'if (calls > MAX_CALLS)',
    replace: 'if (false)',
    mechanism: 'an alert that no call gets rid of is given up',
    test: 'test/runtime/poison-alerts.test.ts',
    title: 'that no call has got rid of is given up after thirty, with a last line',
  },
  {
    name: 'alert-call-limit',
    find: 'within(this.#callLimitMs,',
    replace: 'within(600_000,',
    mechanism: 'a hook that hangs is let go',
    test: 'test/runtime/poison-alerts.test.ts',
    title: 'that takes too long is let go, and counts when it resolves after all',
  },
  {
    name: 'alert-crowd',
    find: 'const room = MAX_CALLS_AT_ONCE - this.#calls.size;',
    replace: 'const room = 1_000;',
    mechanism: 'no more than so many hooks are called at once',
    test: 'test/runtime/poison-alerts.test.ts',
    title: 'is called for no more than twenty jobs at once, the others have their turn',
  },
  {
    name: 'alert-unknown',
    find: 'if (job === undefined || this.#calls.size >= MAX_CALLS_AT_ONCE) return;',
    replace: 'if (this.#calls.size >= MAX_CALLS_AT_ONCE) return; job ??= {};',
    mechanism: 'a process without the definition leaves the alert to one that has it',
    test: 'test/runtime/poison-alerts.test.ts',
    title: 'is called by a process that has it, when one without the definition has ended the job',
  },
] satisfies readonly Change[];
