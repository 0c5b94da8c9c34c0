/** How a reader of each dialect asks for a stream of `talk`, and what each event is in its bytes. */
import { enqueueTalk, type TalkInput } from '../lib/fleet-processes.ts';

export const DIALECTS = ['native', 'responses', 'completions', 'ui-messages'] as const;
export type DialectName = (typeof DIALECTS)[number];

export interface ReaderRequest {
  method: 'GET' | 'POST';
  path: string;
  headers: Readonly<Record<string, string>>;
  body: string;
}

/** Stands in the bytes of a reader once for each event. */
export const MARKERS: Readonly<Record<DialectName, string>> = {
  native: '\nevent: delta\n',
  responses: 'event: response.output_text.delta\n',
  completions: '"delta":{"content":"',
  'ui-messages': '"type":"text-delta"',
};

/** The same key is the same stream, whoever reads it. */
export async function requestFor(
  dialect: DialectName,
  { port, key, input }: { port: number; key: string; input: TalkInput },
): Promise<ReaderRequest> {
  const content = JSON.stringify(input);
  const post = (path: string, body: object): ReaderRequest => ({
    method: 'POST',
    path,
    headers: { 'content-type': 'application/json', 'idempotency-key': key },
    body: JSON.stringify(body),
  });
  switch (dialect) {
    case 'native': {
      const { id } = await enqueueTalk(port, input, key);
      return { method: 'GET', path: `/v1/jobs/${id}/events`, headers: { accept: 'text/event-stream' }, body: '' };
    }
    case 'responses':
      return post('/v1/responses', { model: 'talk', input: content, stream: true, background: true });
    case 'completions':
      return post('/v1/chat/completions', { model: 'talk', messages: [{ role: 'user', content }], stream: true });
    case 'ui-messages': {
      const message = { id: key, role: 'user', parts: [{ type: 'text', text: content }] };
      return post('/api/chat', { id: key, messages: [message], model: 'talk' });
    }
    default:
      return dialect satisfies never;
  }
}
