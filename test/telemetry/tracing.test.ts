/** One trace from the enqueue through the attempts to the follower, with the real SDK; and nothing at all without one. */
import { context, propagation, SpanKind, trace } from '@opentelemetry/api';
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { pino } from 'pino';
import { expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/jobs/define-job.ts';
import { toCarrier } from '../../src/util/tracing.ts';
import { rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { startTracing } from './spans.ts';

const file = useDatabase();

const POLL = { timeout: 15_000, interval: 10 };

const twice = defineJob({
  name: 'twice',
  attempts: 2,
  backoff: { type: 'fixed', delayMs: 0 },
  input: z.object({}).loose(),
  async run(_input, ctx) {
    ctx.log.info('handler');
    trace.getTracer('user').startSpan('of the handler').end();
    if (ctx.attempt === 1) throw new Error('secret of the first attempt');
    await ctx.emit({ type: 'delta' });
    return null;
  },
});

function traced() {
  const tracing = startTracing();
  onTestFinished(() => tracing.stop());
  return tracing;
}

it('one trace over the enqueue, an attempt that fails, one that completes, and the follower', async () => {
  const tracing = traced();
  const lines: Record<string, unknown>[] = [];
  const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const fleet = createTestFleet(file.url, [twice], { log });
  await fleet.work();
  const tracer = trace.getTracer('user');
  const root = tracer.startSpan('request', { kind: SpanKind.SERVER });
  const handle = await context.with(trace.setSpan(context.active(), root), () =>
    fleet.enqueue(twice, {}, { tenant: 'acme' }),
  );
  root.end();
  const other = tracer.startSpan('another request');
  await context.with(trace.setSpan(context.active(), other), async () => {
    for await (const _event of handle.events());
  });
  other.end();
  await expect.poll(() => tracing.spans().filter(({ name }) => name === 'run twice').length, POLL).toBe(2);
  const spans = tracing.spans();
  const find = (name: string) => spans.filter((span) => span.name === name);
  const [enqueue] = find('enqueue twice');
  const [first, second] = find('run twice');
  const [follow] = find('follow twice');
  const { traceId, spanId } = root.spanContext();
  expect(enqueue).toMatchObject({
    traceId,
    parentId: spanId,
    attributes: { 'messaging.message.id': handle.id, 'oncefleet.outcome': 'created', 'oncefleet.tenant': 'acme' },
  });
  const child = { traceId, parentId: enqueue?.spanId };
  expect(first).toMatchObject({
    ...child,
    isError: true,
    attributes: { 'oncefleet.attempt': 1, 'oncefleet.outcome': 'retry', 'error.type': 'HANDLER_ERROR' },
  });
  expect(second).toMatchObject({
    ...child,
    isError: false,
    attributes: { 'oncefleet.attempt': 2, 'oncefleet.outcome': 'completed' },
  });
  // The request that follows is a trace of its own; the two are linked.
  expect(follow).toMatchObject({ ...child, links: [other.spanContext().traceId] });
  expect(find('of the handler').map(({ parentId }) => parentId)).toEqual([first?.spanId, second?.spanId]);
  const told = lines.filter(({ msg }) => msg === 'handler' || msg === 'attempt failed');
  expect(told.map(({ msg, trace_id, span_id }) => [msg, trace_id, span_id])).toEqual([
    ['handler', traceId, first?.spanId],
    ['attempt failed', traceId, first?.spanId],
    ['handler', traceId, second?.spanId],
  ]);
  expect(JSON.stringify(spans)).not.toContain('secret');
});

it('the row keeps the context and no baggage, and BullMQ has it as its own telemetry writes it', async () => {
  traced();
  const prefix = uniquePrefix();
  const fleet = createTestFleet(file.url, [twice], { prefix });
  const baggage = propagation.createBaggage({ user: { value: 'somebody' } });
  const { id } = await context.with(propagation.setBaggage(context.active(), baggage), () => fleet.enqueue(twice, {}));
  const { trace: kept } = JSON.parse((await rowOf(file.db, id)).options) as { trace: Record<string, string> };
  expect(kept).toEqual({ traceparent: expect.stringMatching(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/) });
  const job = await fleet.queues[0]?.getJob(id);
  expect(JSON.parse(job?.opts.telemetry?.metadata as string)).toEqual(kept);
});

it('a job that another BullMQ client added continues the trace that BullMQ carries', async () => {
  const tracing = traced();
  const prefix = uniquePrefix();
  const fleet = createTestFleet(file.url, [twice], { prefix });
  const traceId = 'ab'.repeat(16);
  const connection = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  const queue = new Queue('twice', { connection, prefix });
  onTestFinished(async () => {
    await queue.close();
    connection.disconnect();
  });
  const metadata = JSON.stringify({ traceparent: `00-${traceId}-${'cd'.repeat(8)}-01` });
  await queue.add('twice', { idempotencyKey: 'k' }, { attempts: 2, telemetry: { metadata } });
  await fleet.work();
  // The worker also runs what another test has left in the database, which is of other traces.
  const runs = () => tracing.spans().filter((span) => span.name === 'run twice' && span.traceId === traceId);
  await expect.poll(() => runs().length, POLL).toBe(2);
  expect(runs().map(({ parentId }) => parentId)).toEqual(['cd'.repeat(8), 'cd'.repeat(8)]);
});

it('without an SDK nothing is made, and the row keeps nothing', async () => {
  const fleet = createTestFleet(file.url, [twice]);
  await fleet.work();
  const { id, events } = await fleet.enqueue(twice, {});
  for await (const _event of events());
  expect((await rowOf(file.db, id)).options).not.toContain('trace');
});

it.each([
  [undefined, undefined],
  [null, undefined],
  ['00-a-b-01', undefined],
  [{ traceparent: 'x', baggage: 'user=1' }, { traceparent: 'x' }],
  [{ traceparent: 'x'.repeat(1_025), tracestate: 'y' }, { tracestate: 'y' }],
  [{ traceparent: 'a\u0000b', tracestate: 5 }, undefined],
  [
    Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`f${n}`, 'v'])),
    Object.fromEntries(Array.from({ length: 8 }, (_, n) => [`f${n}`, 'v'])),
  ],
])('of a carrier of any origin what is within its bounds is kept: %j', (given, kept) => {
  expect(toCarrier(given)).toEqual(kept);
});
