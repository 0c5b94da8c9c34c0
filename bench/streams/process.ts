/** A process of the stream benches: writes streams, or follows them. */
import { setImmediate as turn } from 'node:timers/promises';
import { serve } from '../lib/child.ts';
import { now } from '../lib/clock.ts';
import type { Place } from '../lib/databases.ts';
import { eventOf } from '../lib/events.ts';
import { Meter, type Usage } from '../lib/meter.ts';
import { pace } from '../lib/pace.ts';
import { Receipts } from '../lib/receipts.ts';
import { subjects } from './subjects/index.ts';
import type { StreamReader, StreamWriter, SubjectName } from './subjects/subject.ts';

/** A producer gets its events from somewhere: after so many it lets others have the event loop. */
const BURST = 16;

let writer: StreamWriter | undefined;
let reader: StreamReader | undefined;
let streams: readonly string[] = [];
let receipts: Receipts | undefined;
const meter = new Meter();

export const commands = {
  async openWriter(order: { subject: SubjectName; place: Place }): Promise<void> {
    writer = await subjects[order.subject].write(order.place);
  },

  async openStreams(count: number): Promise<readonly string[]> {
    streams = await theWriter().open(count);
    return streams;
  },

  /** Emits so many events to each stream, all streams at once, each as fast as it goes; then all are durable. */
  async write(perStream: number): Promise<void> {
    const out = theWriter();
    const lane = async (streamId: string, place: number) => {
      for (let i = 1; i <= perStream; i++) {
        await out.emit(streamId, eventOf(place * perStream + i));
        if (i % BURST === 0) await turn();
      }
    };
    await Promise.all(streams.map(lane));
    await out.settle();
  },

  /** Emits to one stream after the other at a fixed rate, each event with its time. @returns how late each was, in milliseconds */
  async pace(order: { perSecond: number; total: number }): Promise<number[]> {
    const out = theWriter();
    const emitting: Promise<void>[] = [];
    const late = await pace(order.perSecond, order.total, (n) => {
      emitting.push(out.emit(streams[n % streams.length] as string, eventOf(n, now())));
    });
    await Promise.all(emitting);
    await out.settle();
    return late;
  },

  async openReader(order: { subject: SubjectName; place: Place }): Promise<void> {
    const { read } = subjects[order.subject];
    if (read === undefined) throw new Error(`nothing to follow: ${order.subject} publishes nothing`);
    reader = await read(order.place);
  },

  /** Follows streams from their start, live. */
  async follow(streamIds: readonly string[]): Promise<void> {
    const fresh = new Receipts(streamIds.length);
    receipts = fresh;
    await reader?.attach(streamIds, (stream, seq, event) => fresh.take(stream, seq, event.at));
  },

  /** Resolves when every stream has given so many events. @returns from emit to here, in milliseconds, of events that have a time */
  received(perStream: number): Promise<number[]> {
    if (receipts === undefined) throw new Error('nothing is followed');
    return receipts.until(perStream);
  },

  meter: (order: { profile?: string | undefined }): Promise<void> => meter.start(order.profile),

  used: (_: null): Promise<Usage> => meter.stop(),

  async close(_: null): Promise<void> {
    await writer?.close();
    await reader?.close();
  },
};

function theWriter(): StreamWriter {
  if (writer === undefined) throw new Error('this process writes nothing');
  return writer;
}

serve(commands);
