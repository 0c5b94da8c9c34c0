import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'lease-settling',
    find: 'if (lease?.settling === true) this.#drop(lease); else',
    replace: '',
    mechanism: 'a lease that its run has just given up is not called lost',
    test: 'test/runs/settling.test.ts',
    title: 'an outcome that is committed and not yet answered is no lost lease',
  },
  {
    name: 'lease-watchdog',
    find: 'if (lease.safeUntil <= now) this.#lose(',
    replace: 'if (false) this.#lose(',
    mechanism: 'a run is aborted before its lease can be taken',
    test: 'test/leases/keeper.test.ts',
    title: 'says so before the lease expires when no renewal gets through: a failed one is unknown, not lost',
  },
  {
    name: 'lease-margin',
    find: 'BigInt(ttlMs - marginMs)',
    replace: 'BigInt(ttlMs + marginMs)',
    mechanism: 'safety ends before the lease does',
    test: 'test/leases/keeper.test.ts',
    title: 'says so before the lease expires when no renewal gets through: a failed one is unknown, not lost',
  },
  {
    name: 'lease-unknown',
    find: `case 'failed':`,
    replace: `case 'failed':
        for (const lease of this.#leases.values()) this.#lose(lease, 'a renewal failed');`,
    mechanism: 'a failed renewal is unknown, not lost',
    test: 'test/leases/keeper.test.ts',
    title: 'goes on after renewals that failed, and tells nobody of a loss',
  },
  {
    name: 'lease-send-time',
    find: 'lease.safeUntil = safeUntil(message.sentAt, lease.ttlMs);',
    replace: 'lease.safeUntil = safeUntil(process.hrtime.bigint(), lease.ttlMs);',
    mechanism: 'safety is measured from when a renewal was sent',
    test: 'test/leases/keeper.test.ts',
    title: 'measures safety from when a renewal was sent, not from when its answer came',
  },
  {
    name: 'lease-own-block',
    find: 'if (last === 0n || now / NS_PER_MS - last <= BigInt(this.#options.maxBlockMs)) return;',
    replace: 'if (last >= 0n) return;',
    mechanism: 'the loop finds out itself that it was blocked',
    test: 'test/leases/keeper.test.ts',
    title: 'knows of the block also where its thread waits for Postgres and cannot tell',
  },
  {
    name: 'lease-news-first',
    find: 'this.#receive(news.message as FromThread);',
    replace: 'void news;',
    mechanism: 'news of the thread are read before a lease is judged',
    test: 'test/leases/keeper.test.ts',
    title: 'keeps renewing while the event loop is blocked, up to maxBlockMs',
  },
  {
    name: 'cancel-heartbeat',
    find: 'if (cancelRequested) tellCancel(lease);',
    replace: 'void cancelRequested;',
    mechanism: 'a cancel comes with the heartbeat',
    test: 'test/leases/keeper.test.ts',
    title: 'tells of a cancel once',
  },
] satisfies readonly Change[];
