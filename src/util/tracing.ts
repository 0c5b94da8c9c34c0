/**
 * Traces of OpenTelemetry, through its API alone: whoever wants them installs an SDK, which says where spans go. Without
 * the package, or without an SDK, nothing is made and nothing is stored.
 *
 * The context of an enqueue is kept with the row's options. Every attempt, in whatever process, and every follower
 * continues that trace.
 */
import { createRequire } from 'node:module';
import type * as Api from '@opentelemetry/api';

/** What a propagator has written of a context: `traceparent`, `tracestate`. */
export type TraceCarrier = Readonly<Record<string, string>>;

/** Fields of log lines, by which a log is joined with its trace. */
export type TraceIds = Readonly<{ trace_id?: string; span_id?: string }>;

export interface AttemptTrace {
  readonly ids: TraceIds;
  /** How the attempt ended; without, its span says that it has no outcome. */
  ended(kind: string, errorCode: string | undefined): void;
}

interface TracedJob {
  id: string;
  name: string;
  queue: string;
  tenant: string;
}

const SCOPE = 'oncefleet';

/** Of a carrier that is kept: W3C's fields are two, of 55 and 512 characters. */
const BOUNDS = { fields: 8, nameLength: 64, valueLength: 1_024 };

/** Baggage is what callers put into it, and rows are kept for long. */
const NOT_KEPT = 'baggage';

const NO_TRACE: AttemptTrace = { ids: {}, ended: () => undefined };

let api: typeof Api | null | undefined;

/** Undefined while nobody traces: an SDK registers a propagator, and a process may do so at any time. */
function tracing(): typeof Api | undefined {
  if (api === undefined) {
    try {
      api = createRequire(import.meta.url)('@opentelemetry/api') as typeof Api;
    } catch {
      api = null;
    }
  }
  return api !== null && api.propagation.fields().length > 0 ? api : undefined;
}

/** Whether spans go anywhere. */
export function isTracing(): boolean {
  return tracing() !== undefined;
}

/** A carrier of any origin, within its bounds; undefined where there is none. */
export function toCarrier(given: unknown): TraceCarrier | undefined {
  if (typeof given !== 'object' || given === null) return undefined;
  const fields = Object.entries(given)
    .filter(([name, value]) => isField(name, value))
    .slice(0, BOUNDS.fields);
  return fields.length === 0 ? undefined : (Object.fromEntries(fields) as TraceCarrier);
}

function isField(name: string, value: unknown): boolean {
  return (
    name !== NOT_KEPT &&
    name.length <= BOUNDS.nameLength &&
    typeof value === 'string' &&
    value.length <= BOUNDS.valueLength &&
    /^[\x20-\x7e]*$/.test(value)
  );
}

/** What a job that another BullMQ client added is a part of: the trace that is active, else the one that BullMQ carries. */
export function carrierOfDelivery(opts: { telemetry?: { metadata?: unknown } | undefined }): TraceCarrier | undefined {
  const otel = tracing();
  if (otel === undefined) return undefined;
  const active = otel.trace.getActiveSpan() === undefined ? undefined : inject(otel, otel.context.active());
  return active ?? toCarrier(parse(opts.telemetry?.metadata));
}

function parse(text: unknown): unknown {
  try {
    return typeof text === 'string' ? JSON.parse(text) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Makes a span of an enqueue.
 *
 * @param enqueue is given what the row is to keep
 */
export async function traceEnqueue<T extends { id: string; outcome: string }>(
  job: Omit<TracedJob, 'id'>,
  enqueue: (carrier: TraceCarrier | undefined) => Promise<T>,
): Promise<T> {
  const otel = tracing();
  if (otel === undefined) return enqueue(undefined);
  const span = otel.trace.getTracer(SCOPE).startSpan(`enqueue ${job.name}`, {
    kind: otel.SpanKind.PRODUCER,
    attributes: attributesOf(job, 'enqueue'),
  });
  const context = otel.trace.setSpan(otel.context.active(), span);
  try {
    const accepted = await otel.context.with(context, () => enqueue(inject(otel, context)));
    span.setAttributes({ 'messaging.message.id': accepted.id, 'oncefleet.outcome': accepted.outcome });
    return accepted;
  } catch (error) {
    fail(otel, span, codeOf(error));
    throw error;
  } finally {
    span.end();
  }
}

/** Makes a span of an attempt, which is active while it runs: spans of the handler are its children. */
export async function traceAttempt<T>(
  job: TracedJob & { fence: number; attempt: number; carrier: TraceCarrier | undefined },
  run: (trace: AttemptTrace) => Promise<T>,
): Promise<T> {
  const otel = tracing();
  if (otel === undefined) return run(NO_TRACE);
  const active = otel.trace.getActiveSpan()?.spanContext();
  const parent = parentOf(otel, job.carrier);
  const span = otel.trace.getTracer(SCOPE).startSpan(
    `run ${job.name}`,
    {
      kind: otel.SpanKind.CONSUMER,
      attributes: {
        ...attributesOf(job, 'process'),
        'messaging.message.id': job.id,
        'oncefleet.fence': job.fence,
        'oncefleet.attempt': job.attempt,
      },
      // BullMQ's own span of this delivery, where it is of another trace.
      links: active === undefined || sameTrace(otel, parent, active.traceId) ? [] : [{ context: active }],
    },
    parent,
  );
  const { traceId, spanId } = span.spanContext();
  let isEnded = false;
  const trace: AttemptTrace = {
    ids: { trace_id: traceId, span_id: spanId },
    ended(kind, errorCode) {
      isEnded = true;
      span.setAttribute('oncefleet.outcome', kind);
      if (errorCode !== undefined) fail(otel, span, errorCode);
    },
  };
  try {
    return await otel.context.with(otel.trace.setSpan(parent, span), () => run(trace));
  } finally {
    if (!isEnded) fail(otel, span, 'NO_OUTCOME');
    span.end();
  }
}

/**
 * Makes a span of a follower.
 *
 * @param find what the row of the job keeps; asked for only while somebody traces
 * @returns ends it
 */
export async function traceFollower(
  streamId: string,
  find: () => Promise<{ name: string; queue: string; tenant: string; carrier: TraceCarrier | undefined } | undefined>,
): Promise<(() => void) | undefined> {
  const otel = tracing();
  if (otel === undefined) return undefined;
  const active = otel.trace.getActiveSpan()?.spanContext();
  // A reader is not to fail for the sake of its trace; what is wrong it meets by itself.
  const job = await find().catch(() => undefined);
  if (job === undefined) return undefined;
  const parent = parentOf(otel, job.carrier);
  const span = otel.trace.getTracer(SCOPE).startSpan(
    `follow ${job.name}`,
    {
      kind: otel.SpanKind.CONSUMER,
      attributes: { ...attributesOf(job, 'receive'), 'messaging.message.id': streamId },
      links: active === undefined || sameTrace(otel, parent, active.traceId) ? [] : [{ context: active }],
    },
    parent,
  );
  return () => span.end();
}

/** The stored context, or the active one of a row that keeps none. */
function parentOf(otel: typeof Api, carrier: TraceCarrier | undefined): Api.Context {
  const active = otel.context.active();
  if (carrier === undefined) return active;
  const stored = otel.propagation.extract(otel.trace.deleteSpan(active), carrier);
  const { traceId } = otel.trace.getSpanContext(stored) ?? {};
  if (traceId === undefined) return active;
  // Within the same trace what is active is nearer: BullMQ's own span of this delivery.
  return otel.trace.getActiveSpan()?.spanContext().traceId === traceId ? active : stored;
}

function sameTrace(otel: typeof Api, parent: Api.Context, traceId: string): boolean {
  return otel.trace.getSpanContext(parent)?.traceId === traceId;
}

function inject(otel: typeof Api, context: Api.Context): TraceCarrier | undefined {
  const carrier: Record<string, string> = {};
  otel.propagation.inject(context, carrier);
  return toCarrier(carrier);
}

function attributesOf(job: Omit<TracedJob, 'id'>, operation: 'enqueue' | 'process' | 'receive'): Api.Attributes {
  return {
    'messaging.system': SCOPE,
    'messaging.operation.name': operation,
    'messaging.destination.name': job.queue,
    'oncefleet.job': job.name,
    'oncefleet.tenant': job.tenant,
  };
}

/** The code and not the message, which may quote what a handler was given. */
function fail(otel: typeof Api, span: Api.Span, code: string): void {
  span.setStatus({ code: otel.SpanStatusCode.ERROR, message: code });
  span.setAttribute('error.type', code);
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === 'string' ? code : 'INTERNAL';
}
