import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'channel-let-go',
    find: 'this.#unsubscribe(names.filter((name) => !this.#channels.has(name)));',
    replace: '',
    mechanism: 'a subscription confirmed too late is let go of',
    test: 'test/db/half-open.slow.test.ts',
    title: 'leave no subscription behind that was let go of while they were away',
  },
  {
    name: 'channel-endings',
    find: 'if (ended !== undefined) for (const listener of [...ended.listeners]) listener.onBatch(SILENT_END);',
    replace: '',
    mechanism: 'the ends of silent jobs reach those who wait',
    test: 'test/journal/follower.test.ts',
    title: 'of a silent job hears of its end on the channel of all endings',
  },
  {
    name: 'channel-confirmed-gap',
    find: 'channel.confirmed = true; for (const listener of [...channel.listeners]) listener.onGap();',
    replace: 'channel.confirmed = true;',
    mechanism: 'a follower looks at the head once its subscription is confirmed',
    test: 'test/journal/follower.test.ts',
    title: 'whose subscription is confirmed late looks at the head then',
  },
  {
    name: 'channel-cut-gap',
    find: 'channel.confirmed = false; for (const listener of [...channel.listeners]) listener.onGap();',
    replace: 'channel.confirmed = false;',
    mechanism: 'a follower polls from the moment its connection is cut',
    test: 'test/journal/follower.test.ts',
    title: 'polls from the moment Redis goes away for good',
  },
  {
    name: 'channel-resubscribe',
    find: 'this.#subscribe([...this.#channels.keys()]);',
    replace: '',
    mechanism: 'a hub subscribes again after a cut',
    test: 'test/journal/follower.test.ts',
    title: 'catches up after its Redis connection was cut',
  },
  {
    name: 'channel-ref-count',
    find: 'if (!listeners.delete(listener) || listeners.size > 0) return;',
    replace: 'listeners.delete(listener);',
    mechanism: 'the last follower of a stream ends its subscription, not the first',
    test: 'test/journal/follower-leaks.test.ts',
    title: 'a follower that leaves takes nothing from another of its stream',
  },
] satisfies readonly Change[];
