/** Messages as clients of OpenAI's and the AI SDK's APIs write them, taken for texts. */
import { z } from 'zod';
import type { ChatMessage } from '../../jobs/define-job.ts';

/** More are no conversation, and each costs more than its bytes. */
const MAX_MESSAGES = 1_000;

const role = z
  .enum(['system', 'developer', 'user', 'assistant'], 'expected system, developer, user or assistant')
  .transform((name): ChatMessage['role'] => (name === 'developer' ? 'system' : name));

const textPart = z.looseObject({
  type: z.enum(['input_text', 'output_text', 'text'], 'only text is understood'),
  text: z.string('expected a text'),
});
const content = z.union(
  [z.string(), z.array(textPart)],
  'expected a text, or a list of parts with a text each; only text is understood',
);

/** Messages of a conversation, the last of which asks something. */
export const chatMessages = z
  .array(z.looseObject({ role, content }), 'expected a list of messages')
  .min(1, 'expected at least one message')
  .max(MAX_MESSAGES, `expected at most ${MAX_MESSAGES} messages`)
  .transform((messages) => messages.map(toMessage))
  .refine((messages) => messages.at(-1)?.role === 'user', "expected the last message to be the user's");

const uiPart = z.looseObject({ type: z.string('expected the type of a part'), text: z.string().optional() });

/** Messages as the AI SDK keeps them: parts, of which the text counts. Files are not understood, and said to be so. */
export const uiMessages = z
  .array(
    z.looseObject({
      id: z.string('expected the id of the message').max(200).optional(),
      role: z.enum(['system', 'user', 'assistant'], 'expected system, user or assistant'),
      parts: z
        .array(uiPart, 'expected a list of parts')
        .refine((parts) => parts.every(({ type }) => type !== 'file'), 'only text is understood, no files'),
    }),
    'expected a list of messages',
  )
  .min(1, 'expected at least one message')
  .max(MAX_MESSAGES, `expected at most ${MAX_MESSAGES} messages`)
  .refine((messages) => messages.at(-1)?.role === 'user', "expected the last message to be the user's")
  .transform((messages) =>
    messages
      .map(({ id, role: by, parts }) => ({
        id,
        role: by as ChatMessage['role'],
        content: parts.map(({ type, text = '' }) => (type === 'text' ? text : '')).join(''),
      }))
      // An answer that was cut off before its first word.
      .filter(({ role: by, content: text }) => by !== 'assistant' || text !== ''),
  );

/** `input` of a response: a text, or items of which those that are no messages of a conversation are left out. */
export const responseInput = z.union(
  [
    z.string().transform((text): ChatMessage[] => [{ role: 'user', content: text }]),
    z
      .array(z.looseObject({ type: z.string().optional() }))
      .max(MAX_MESSAGES, `expected at most ${MAX_MESSAGES} items`)
      // A client that sends back what it was given sends these too.
      .transform((items) => items.filter(({ type }) => type !== 'reasoning' && type !== 'item_reference'))
      .pipe(chatMessages),
  ],
  "expected a text, or a list of messages of which the last one is the user's; only text is understood",
);

function toMessage({ role: by, content: text }: { role: ChatMessage['role']; content: string | { text: string }[] }) {
  return { role: by, content: typeof text === 'string' ? text : text.map((part) => part.text).join('') };
}

/** Up to 16 pairs, as OpenAI has them. */
export const metadata = z
  .record(z.string().max(64), z.string('expected a text').max(512))
  .refine((pairs) => Object.keys(pairs).length <= 16, 'expected at most 16 pairs')
  .nullish()
  .transform((pairs) => pairs ?? {});

/** What real clients send and nobody reads is ignored. */
export const flag = z
  .boolean()
  .nullish()
  .transform((value) => value ?? false);
