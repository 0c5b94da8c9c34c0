/** Answers end by bytes, however large what they could hold. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/jobs/define-job.ts';
import { Turns } from '../../src/util/turns.ts';
import { type Harness, startHarness } from './harness.ts';
import { RawRequest } from './sse-reader.ts';

const MIB = 1024 * 1024;

/** Says texts of these lengths, then returns one. */
const sized = defineJob({
  name: 'sized',
  input: z.object({
    events: z.array(z.number()).default([]),
    result: z.number().default(0),
    filler: z.string().default(''),
    letter: z.string().default('r'),
  }),
  async run({ events, result, letter }, ctx) {
    for (const length of events) await ctx.emit({ type: 'text', text: 'x'.repeat(length) });
    return letter.repeat(result);
  },
});

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness({}, [sized]);
});
afterAll(() => harness?.close());

async function done(input: z.input<typeof sized.input>): Promise<string> {
  const job = await harness.fleet.enqueue(sized, input);
  await job.result({ timeoutMs: 60_000 });
  return job.id;
}

async function get<T>(path: string): Promise<{ body: T; bytes: number }> {
  const response = await fetch(harness.url(path), { headers: { accept: 'application/json' } });
  expect(response.status).toBe(200);
  const text = await response.text();
  return { body: JSON.parse(text) as T, bytes: Buffer.byteLength(text) };
}

it('a search carries no inputs and no results', async () => {
  for (let n = 0; n < 8; n++) await done({ filler: 'i'.repeat(MIB), result: MIB });
  const { body, bytes } = await get<{ jobs: object[] }>('/v1/jobs?name=sized&limit=100');
  expect(body.jobs.length).toBeGreaterThanOrEqual(8);
  for (const job of body.jobs) {
    expect(job).not.toHaveProperty('input');
    expect(job).not.toHaveProperty('result');
  }
  expect(bytes).toBeLessThan(64 * 1024);
});

// A result has at most 4 Mi characters: over 4 MiB are those whose letters take two bytes.
it.each([
  [{ filler: 'i'.repeat(5 * MIB), letter: 'r', result: 100 }, ['input']],
  [{ filler: '', letter: 'ä', result: 3 * MIB }, ['result']],
  [{ filler: 'i'.repeat(5 * MIB), letter: 'ä', result: 3 * MIB }, ['input', 'result']],
  [{ filler: 'i'.repeat(3 * MIB), letter: 'r', result: 3 * MIB }, []],
])('a read of one job leaves out what is too large, and names it (%#)', async (input, leftOut) => {
  const id = await done(input);
  type Shown = { input: unknown; result: unknown; leftOut: string[] };
  const { body, bytes } = await get<Shown>(`/v1/jobs/${id}`);
  expect(body.leftOut).toEqual(leftOut);
  expect(body.result).toEqual(leftOut.includes('result') ? null : input.letter.repeat(input.result));
  expect(body.input).toEqual(leftOut.includes('input') ? null : input);
  expect(bytes).toBeLessThan(9 * MIB);
  // The library leaves out nothing.
  expect(await harness.fleet.get(id)).toMatchObject({ result: input.letter.repeat(input.result), leftOut: [] });
});

describe.each([
  ['many of a MiB', Array(9).fill(MIB - 100)],
  ['some as large as events may be', [3.9 * MIB, 10, 3.9 * MIB, 3.9 * MIB, 10].map(Math.floor)],
])('events, %s', (_what, lengths) => {
  it('come in pages that end by bytes, and none is left out', async () => {
    const id = await done({ events: lengths });
    type Page = {
      events: { seq: number; event: { type: string; text?: string } }[];
      next: string | number;
      finished: boolean;
    };
    const seen: (number | undefined)[] = [];
    for (let after: string | number = -1, finished = false; !finished; ) {
      const { body, bytes }: { body: Page; bytes: number } = await get<Page>(
        `/v1/jobs/${id}/events?limit=1000&after=${after}`,
      );
      expect(body.events.length).toBeGreaterThan(0);
      expect(bytes).toBeLessThan(4.5 * MIB);
      seen.push(...body.events.map(({ event }) => event.text?.length));
      after = body.next;
      finished = body.finished;
    }
    expect(seen).toEqual([...lengths, undefined]);
  });
});

it('a job without events whose result is large ends its readers with the whole of it, alone or among others', async () => {
  const ids = [await done({ result: 100 * 1024 }), await done({ result: 10 }), await done({ result: 3 * MIB })];
  const lengths = [100 * 1024, 10, 3 * MIB];
  const single = await Promise.all(
    ids.map((id) => new RawRequest(harness.port, `/v1/jobs/${id}/events`, { accept: 'text/event-stream' }).closed()),
  );
  expect(single.map(({ events }) => events.map(({ data }) => JSON.parse(data).result.length))).toEqual(
    lengths.map((n) => [n]),
  );
  const all = await new RawRequest(harness.port, `/v1/events?streams=${ids.join(',')}`, {
    accept: 'text/event-stream',
  }).closed();
  const results = all.events.map(({ data }) => JSON.parse(data) as { stream: string; event: { result: string } });
  expect(Object.fromEntries(results.map(({ stream, event }) => [stream, event.result.length]))).toEqual(
    Object.fromEntries(ids.map((id, i) => [id, lengths[i]])),
  );
});

it('a turn is told what it has brought, and ends when that has been taken', async () => {
  const id = await done({ events: [1_000, 2_000] });
  const brought: number[] = [];
  let ended = 0;
  const turns = {
    take: async () => Object.assign(() => void ended++, { brought: (length: number) => void brought.push(length) }),
  };
  const reading = harness.fleet.followBatches(id, { turns });
  await reading.next();
  expect(ended).toBe(0);
  for await (const batch of reading) for (const _event of batch);
  expect(ended).toBe(brought.length);
  expect(brought.reduce((sum, length) => sum + length)).toBeGreaterThan(3_000);
});

it('of streams that share their turns one reads from the journal at a time', async () => {
  const turns = new Turns();
  const [first, second] = [await done({ events: [10, 10] }), await done({ events: [10, 10] })];
  const reading = harness.fleet.followBatches(first, { turns });
  await reading.next();
  let hasRead = false;
  const waiting = harness.fleet.followBatches(second, { turns });
  const next = waiting.next().then((batch) => {
    hasRead = true;
    return batch;
  });
  // Each asks Postgres, as the reader would have done long before the last one.
  for (let n = 0; n < 100; n++) await harness.fleet.get(second);
  expect(hasRead).toBe(false);
  await reading.return();
  expect((await next).done).toBe(false);
  await waiting.return();
});
