/** Observers are told in order and in the background, and harm nobody. */
import { pino } from 'pino';
import { describe, expect, it, vi } from 'vitest';
import { silentLogger } from '../../src/log.ts';
import { type JobObserver, Observers, type Told, type Transition } from '../../src/runtime/observers.ts';

const POLL = { timeout: 10_000, interval: 2 };

const told = (jobId: string): Told => ({
  type: 'completed',
  jobId,
  name: 'job',
  queue: 'job',
  tenant: 'default',
  by: 'worker',
});

/** With the lines that were logged. */
function observers(level = 'info') {
  const lines: { msg: string; level: number; [key: string]: unknown }[] = [];
  const log = pino({ level }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  return { observers: new Observers({ log, process: 'me' }), lines };
}

const noteIds =
  (ids: string[]): JobObserver =>
  ({ jobId }) =>
    void ids.push(jobId);

describe('an observer', () => {
  it('is told in order, after the caller has gone on', async () => {
    const { observers: all } = observers();
    const ids: string[] = [];
    all.observe(noteIds(ids));
    for (const id of ['a', 'b', 'c']) all.tell(told(id));
    expect(ids).toEqual([]);
    await all.idle();
    expect(ids).toEqual(['a', 'b', 'c']);
    all.tell(told('d'));
    await all.idle();
    expect(ids).toEqual(['a', 'b', 'c', 'd']);
  });

  it('is told the process and the time, and cannot change what others are told', async () => {
    const { observers: all } = observers();
    const seen: Transition[] = [];
    all.observe((transition) => {
      (transition as { jobId: string }).jobId = 'changed';
    });
    all.observe((transition) => seen.push(transition));
    all.tell(told('a'));
    await all.idle();
    expect(seen).toMatchObject([{ jobId: 'a', process: 'me', at: expect.any(Date), attempt: undefined }]);
  });

  it.each<[string, () => unknown]>([
    ['throws', fail],
    ['rejects', () => Promise.reject(new Error('told'))],
    ['rejects with what is no error', () => Promise.reject(undefined)],
  ])('that %s is told on, and keeps nothing from others', async (_, observer) => {
    const { observers: all, lines } = observers();
    const calls = vi.fn(observer);
    const ids: string[] = [];
    all.observe(calls);
    all.observe(noteIds(ids));
    for (const id of ['a', 'b']) expect(() => all.tell(told(id))).not.toThrow();
    await all.idle();
    expect(ids).toEqual(['a', 'b']);
    expect(calls).toHaveBeenCalledTimes(2);
    expect(lines.map(({ msg }) => msg)).toEqual(['observer failed']);
  });

  it('that is slow is waited for by nobody but itself', async () => {
    const { observers: all } = observers();
    const go = Promise.withResolvers<void>();
    const slow: string[] = [];
    const quick: string[] = [];
    all.observe(async ({ jobId }) => {
      slow.push(jobId);
      await go.promise;
    });
    all.observe(noteIds(quick));
    for (const id of ['a', 'b']) all.tell(told(id));
    await expect.poll(() => quick, POLL).toEqual(['a', 'b']);
    expect(slow).toEqual(['a']);
    go.resolve();
    await all.idle();
    expect(slow).toEqual(['a', 'b']);
  });

  it('that never answers is told on after its time, and does not keep a fleet from closing', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const { observers: all, lines } = observers();
      const ids: string[] = [];
      all.observe(({ jobId }) => {
        ids.push(jobId);
        return new Promise(() => undefined);
      });
      for (const id of ['a', 'b']) all.tell(told(id));
      await vi.waitFor(() => expect(ids).toEqual(['a']));
      await vi.advanceTimersByTimeAsync(30_000);
      await vi.waitFor(() => expect(ids).toEqual(['a', 'b']));
      expect(lines.map(({ msg }) => msg)).toEqual(['observer has not answered in time']);
      const closed = all.close();
      await vi.advanceTimersByTimeAsync(1_000);
      await closed;
    } finally {
      vi.useRealTimers();
    }
  });

  it('that is too slow misses the newest, and the log says how many', async () => {
    const { observers: all, lines } = observers();
    const go = Promise.withResolvers<void>();
    const ids: string[] = [];
    all.observe(async ({ jobId }) => {
      ids.push(jobId);
      await go.promise;
    });
    all.tell(told('first'));
    await expect.poll(() => ids, POLL).toEqual(['first']);
    for (let i = 0; i < 10_005; i++) all.tell(told(String(i)));
    go.resolve();
    await all.idle();
    expect(ids).toEqual(['first', ...Array.from({ length: 10_000 }, (_, i) => String(i))]);
    expect(lines.map(({ msg }) => msg)).toEqual(['observer is too slow: transitions were dropped']);
    all.tell(told('later'));
    await all.idle();
    expect(ids.at(-1)).toBe('later');
  });

  it('is told nothing more once it is ended', async () => {
    const { observers: all } = observers();
    const ids: string[] = [];
    const unobserve = all.observe(noteIds(ids));
    all.tell(told('a'));
    await all.idle();
    all.tell(told('b'));
    unobserve();
    unobserve();
    all.tell(told('c'));
    await all.idle();
    expect(ids).toEqual(['a']);
    expect(all.listening).toBe(false);
  });

  it.each([undefined, null, {}, 'log'])('is a function, and not %j', (observer) => {
    const { observers: all } = observers();
    expect(() => all.observe(observer as never)).toThrow(
      expect.objectContaining({ code: 'INPUT_INVALID', message: expect.stringContaining('observer') }),
    );
  });

  it('is told what is left when its fleet closes', async () => {
    const { observers: all } = observers();
    const ids: string[] = [];
    all.observe(noteIds(ids));
    all.tell(told('a'));
    await all.close();
    expect(ids).toEqual(['a']);
    expect(all.listening).toBe(false);
  });
});

describe('the log', () => {
  it('has a line of each transition at level debug, with nothing but what observers are told', () => {
    const { observers: all, lines } = observers('debug');
    expect(all.listening).toBe(true);
    all.tell({ ...told('a'), fence: 3 });
    expect(lines).toMatchObject([{ msg: 'job completed', level: 20, jobId: 'a', fence: 3, by: 'worker' }]);
  });

  it('listens at no other level: without observers nobody is told', () => {
    expect(observers('info').observers.listening).toBe(false);
    expect(new Observers({ log: silentLogger(), process: 'me' }).listening).toBe(false);
  });
});

function fail(): never {
  throw new Error('told');
}
