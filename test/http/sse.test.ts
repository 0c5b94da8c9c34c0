import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatFrame, formatRetry, KEEPALIVE_FRAME } from '../../src/http/sse.ts';
import { parseSse } from './sse-reader.ts';

describe('formatFrame', () => {
  it('writes id, event and data in this order and ends with a blank line', () => {
    expect(formatFrame({ id: 7, event: 'delta', data: '{"a":1}' })).toBe('id: 7\nevent: delta\ndata: {"a":1}\n\n');
  });

  it('leaves the id out of a frame that is not in the journal', () => {
    expect(formatFrame({ event: 'rewind', data: '{}' })).toBe('event: rewind\ndata: {}\n\n');
  });

  it('splits data at CRLF, CR and LF', () => {
    expect(formatFrame({ data: 'a\r\nb\rc\nd' })).toBe('data: a\ndata: b\ndata: c\ndata: d\n\n');
  });

  it('keeps empty lines of data', () => {
    expect(parseSse(formatFrame({ data: '\n\n' }))).toEqual([{ data: '\n\n' }]);
  });

  it.each(['a\nb', 'a\rb', 'a\0b'])('refuses %j as an event name or id, which would forge another field', (text) => {
    expect(() => formatFrame({ event: text, data: '' })).toThrow(RangeError);
    expect(() => formatFrame({ id: text, data: '' })).toThrow(RangeError);
  });

  it('gives a reader back any JSON text, byte for byte', () => {
    fc.assert(
      fc.property(fc.json(), fc.nat(), (data, id) => {
        expect(parseSse(formatFrame({ id, event: 'e', data }))).toEqual([{ id: String(id), event: 'e', data }]);
      }),
    );
  });

  it('gives a reader back any text, with its line breaks as LF', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom('a', ' ', ':', '\r', '\n', 'data: ', '\u2028') }), (data) => {
        expect(parseSse(formatFrame({ data }))).toEqual([{ data: data.replace(/\r\n|\r/g, '\n') }]);
      }),
    );
  });
});

describe('frames without data', () => {
  it('are no events to a reader', () => {
    expect(parseSse(`${formatRetry(1000)}${KEEPALIVE_FRAME}${formatRetry(5000, 'SHUTTING_DOWN')}`)).toEqual([]);
  });

  it('tell the time to wait', () => {
    expect(formatRetry(1000)).toBe('retry: 1000\n\n');
    expect(formatRetry(5000, 'SHUTTING_DOWN')).toBe('retry: 5000\n: SHUTTING_DOWN\n\n');
  });
});
