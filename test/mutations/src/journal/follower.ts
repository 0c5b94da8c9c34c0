import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'page-bytes',
    find: '|| (events.length > 0 && length > MAX_PAGE_LENGTH)',
    replace: '',
    mechanism: 'a page of events ends by bytes',
    test: 'test/http/large-answers.test.ts',
    title: 'come in pages that end by bytes, and none is left out',
  },
  {
    name: 'follower-early-poll',
    find: 'this.#hub.isLive(streamId) && early.isEmpty',
    replace: 'this.#hub.isLive(streamId)',
    mechanism: 'a reader that misses an event looks at the head soon',
    test: 'test/journal/immediate.test.ts',
    title: 'finds a lost message soon, even if its commit was lost on the bus too',
  },
  {
    name: 'follower-committed',
    find: 'if (!message.committed && committed) continue;',
    replace: '',
    mechanism: 'who wants committed events alone gets no others',
    test: 'test/journal/immediate.test.ts',
    title: 'gives committed events alone to who asks for them, and never rewinds',
  },
  {
    name: 'follower-unsubscribes',
    find: '} finally { unsubscribe(); }',
    replace: '} finally { }',
    mechanism: 'a follower takes its subscription with it',
    test: 'test/journal/follower-leaks.test.ts',
    title: 'leave no subscription, listener or timer behind: %s',
  },
  {
    name: 'follower-subscribes',
    find: 'const unsubscribe = this.#hub.subscribe(streamId, inbox);',
    replace: 'const unsubscribe = () => {};',
    mechanism: 'a follower hears the live bus',
    test: 'test/journal/follower.test.ts',
    title: 'drops messages it has seen, whole and in part',
  },
  {
    name: 'follower-subscribe-first',
    find: `if (this.#hub.connected) await inbox.wait(SUBSCRIBE_WAIT_MS, signal);
        if (inbox.stopped) return;
        inbox.checkingHead();
        let state = await this.state(streamId, tenant);`,
    replace: `let state = await this.state(streamId, tenant);
        if (this.#hub.connected) await inbox.wait(SUBSCRIBE_WAIT_MS, signal);
        inbox.checkingHead();`,
    mechanism: 'a follower reads the snapshot after its subscription stands',
    test: 'test/journal/follower.test.ts',
    title: 'reads the snapshot only when its subscription stands',
  },
  {
    name: 'follower-looks-before',
    find: `inbox.checkingHead();
        state = await this.state(streamId, tenant);`,
    replace: `state = await this.state(streamId, tenant);
        inbox.checkingHead();`,
    mechanism: 'a gap that opens while the head is read is not forgotten',
    test: 'test/journal/follower.test.ts',
    title: 'does not forget a gap that opens while it reads the head',
  },
  {
    name: 'follower-head-check',
    find: 'if (!woken || inbox.gap) break;',
    replace: 'if (inbox.gap) break;',
    mechanism: 'a missed publish is found by looking at the head',
    test: 'test/journal/follower.test.ts',
    title: 'finds a missed publish by its head check',
  },
  {
    name: 'follower-polls',
    find: 'live ? this.#headCheckMs : this.#pollMs',
    replace: 'live ? this.#headCheckMs : this.#headCheckMs',
    mechanism: 'without Redis a follower polls',
    test: 'test/journal/follower.test.ts',
    title: 'with no Redis at all polls Postgres',
  },
  {
    name: 'follower-ends',
    find: 'if (state.closed && tail.next >= state.nextSeq) return;',
    replace: '',
    mechanism: 'a follower of a finished stream ends',
    test: 'test/journal/follower.test.ts',
    title: 'starts after its cursor',
  },
  {
    name: 'follower-tenant',
    find: 'if (state === undefined || state.tenant !== tenant) {',
    replace: 'if (state === undefined) {',
    mechanism: 'a stream is followed in its tenant',
    test: 'test/runs/deliveries.test.ts',
    title: 'of an unknown job, or another tenant’s, is not found',
  },
  {
    name: 'follower-batch-rest',
    find: 'if (!taken) break;',
    replace: '',
    mechanism: 'what a reader of batches has not taken is given again',
    test: 'test/journal/follower.test.ts',
    title: 'of batches that takes a part of one is given the rest, read or live',
  },
  {
    name: 'follower-pass-over',
    find: 'if (batch.unread) batch.skip(Number.POSITIVE_INFINITY);',
    replace: '',
    mechanism: 'a batch that its reader leaves alone is passed over',
    test: 'test/journal/follower.test.ts',
    title: 'of batches that %s passes over them, read or live, and ends',
  },
  {
    name: 'probe-gap',
    find: 'this.#probes?.listener?.gapFilled(missed);',
    replace: '',
    mechanism: 'gaps are counted',
    test: 'test/telemetry/metrics.test.ts',
    title: 'counts gaps that followers fill, and followers that are too slow',
  },
  {
    name: 'probe-demoted',
    find: '() => this.#probes?.listener?.followerDemoted()',
    replace: '() => undefined',
    mechanism: 'demotions are counted',
    test: 'test/telemetry/metrics.test.ts',
    title: 'counts gaps that followers fill, and followers that are too slow',
  },
  {
    name: 'trace-follower',
    find: 'return isTracing() ? this.#followTraced(options, inbox) : this.#follow(options, inbox);',
    replace: 'return this.#follow(options, inbox);',
    mechanism: 'a follower is part of the trace',
    test: 'test/telemetry/tracing.test.ts',
    title: 'one trace over the enqueue, an attempt that fails, one that completes, and the follower',
  },
] satisfies readonly Change[];
