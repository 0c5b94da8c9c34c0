/** One request to a model server, through the AI SDK, and its answer as it comes. */
import type { LanguageModelUsage, ModelMessage, streamText } from 'ai';
import { MAX_ANSWER_BYTES, type ModelLimits, type ModelTarget } from '../../../model-settings.ts';
import { brokenOff, hopeless, type ModelFault, toModelFault } from './errors.ts';
import { type TextPart, ThinkSplitter } from './think.ts';

/** Tokens as the server counted them. */
export interface Usage {
  inputTokens: number | undefined;
  outputTokens: number | undefined;
  totalTokens: number | undefined;
}

export type RequestPart = TextPart | ({ type: 'usage' } & Usage);

interface RequestOptions {
  instructions: string;
  messages: ModelMessage[];
  limits: ModelLimits;
  /** Value of `Idempotency-Key`. */
  key: string;
  signal: AbortSignal;
  fetch: typeof globalThis.fetch;
}

/**
 * Ends only after the server has said that the answer is whole; its usage comes last, if the server tells it.
 *
 * @throws ModelFault; the signal's reason, once the request is cut
 */
export async function* requestAnswer(
  target: ModelTarget,
  options: RequestOptions,
): AsyncGenerator<RequestPart, void, undefined> {
  const { signal, limits } = options;
  signal.throwIfAborted();
  // Loaded on first use: a web process, and a worker without a model, never need them.
  const [{ streamText }, { createOpenAICompatible }, { endWithAnswer }] = await Promise.all([
    import('ai'),
    import('@ai-sdk/openai-compatible'),
    import('./response-body.ts'),
  ]);
  const provider = createOpenAICompatible({
    name: 'model',
    baseURL: target.baseUrl,
    includeUsage: true,
    fetch: endWithAnswer(options.fetch),
    ...(target.apiKey === undefined ? {} : { apiKey: target.apiKey }),
  });
  const watch = new Watch(limits);
  try {
    const request: Parameters<typeof streamText>[0] = {
      model: provider.chatModel(target.name),
      instructions: options.instructions,
      messages: options.messages,
      maxRetries: 0,
      headers: { 'idempotency-key': options.key },
      abortSignal: AbortSignal.any([signal, watch.signal]),
      // The default writes the error, with the request's body in it, to the console.
      onError: () => undefined,
      ...(limits.maxOutputTokens === undefined ? {} : { maxOutputTokens: limits.maxOutputTokens }),
    };
    yield* readAnswer(streamText(request).stream, watch, target);
  } catch (error) {
    signal.throwIfAborted();
    throw watch.fault ?? toModelFault(error, target);
  } finally {
    // Ends the request however this generator is left, not on the job's signal alone.
    watch.stop();
  }
  signal.throwIfAborted();
}

type AnswerStream = ReturnType<typeof streamText>['stream'];

async function* readAnswer(
  stream: AnswerStream,
  watch: Watch,
  target: ModelTarget,
): AsyncGenerator<RequestPart, void, undefined> {
  const splitter = new ThinkSplitter();
  const bytes = { delta: 0, reasoning: 0 };
  let end: { reason: string; usage: LanguageModelUsage } | undefined;
  let toolCalls = 0;

  const accept = (parts: TextPart[]): TextPart[] => {
    for (const { type, text } of parts) {
      bytes[type] += Buffer.byteLength(text);
      if (bytes[type] > MAX_ANSWER_BYTES)
        throw hopeless(`The model wrote over ${MAX_ANSWER_BYTES} bytes of ${type === 'delta' ? 'text' : 'reasoning'}`);
    }
    if (parts.length > 0) watch.progress();
    return parts;
  };

  for await (const part of watch.over(stream)) {
    if (part.type === 'text-delta') yield* accept(splitter.push(part.text));
    else if (part.type === 'reasoning-delta' && part.text !== '')
      yield* accept([{ type: 'reasoning', text: part.text }]);
    else if (part.type === 'tool-input-start' || part.type === 'tool-call') toolCalls++;
    else if (part.type === 'error') throw toModelFault(part.error, target);
    else if (part.type === 'finish')
      end = { reason: part.rawFinishReason ?? part.finishReason, usage: part.totalUsage };
  }
  yield* accept(splitter.end());
  refuseUnfinished(end?.reason, { hasText: bytes.delta > 0, hasReasoning: bytes.reasoning > 0, toolCalls });
  const { inputTokens, outputTokens, totalTokens } = end?.usage ?? {};
  if (inputTokens !== undefined || outputTokens !== undefined)
    yield { type: 'usage', inputTokens, outputTokens, totalTokens };
}

/** Whatever a server sends, only text that it calls whole is an answer. */
function refuseUnfinished(
  reason: string | undefined,
  came: { hasText: boolean; hasReasoning: boolean; toolCalls: number },
): void {
  switch (reason) {
    case 'length':
    case 'max_tokens':
      throw hopeless('The model stopped at its token limit before the answer was whole');
    case 'content_filter':
    case 'content-filter':
      throw hopeless('The model server withheld the answer (content filter)');
    case 'tool_calls':
    case 'tool-calls':
    case 'function_call':
      throw hopeless('The model asked for a tool instead of answering; it was offered none');
    case 'stop':
    case 'end_turn':
    case 'eos':
      break;
    case undefined:
    case 'error':
    case 'other':
    case 'unknown':
      throw brokenOff('The model server broke off before the answer was whole');
    default:
      throw brokenOff(`The model server ended the answer for a reason of its own: ${reason.slice(0, 100)}`);
  }
  if (came.toolCalls > 0) throw hopeless('The model asked for a tool instead of answering; it was offered none');
  if (came.hasText) return;
  throw brokenOff(came.hasReasoning ? 'The model gave reasoning, but no answer' : 'The model gave an empty answer');
}

/** The times of one request. What runs out is said in the words of what has come. */
class Watch {
  readonly #limits: ModelLimits;
  readonly #controller = new AbortController();
  readonly #expired = Promise.withResolvers<never>();
  readonly #total: NodeJS.Timeout;
  /** Until the first text, then between two. */
  #next: NodeJS.Timeout;
  #fault: ModelFault | undefined;

  constructor(limits: ModelLimits) {
    this.#limits = limits;
    this.#expired.promise.catch(() => undefined);
    this.#next = setTimeout(
      () => this.#expire(`The model server sent no text within ${limits.firstTokenMs} ms`),
      limits.firstTokenMs,
    );
    this.#total = setTimeout(() => this.#expire(`The answer was not whole after ${limits.totalMs} ms`), limits.totalMs);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** What ended the request, if it was a time that ran out. */
  get fault(): ModelFault | undefined {
    return this.#fault;
  }

  /** Text has come. */
  progress(): void {
    const { idleMs } = this.#limits;
    clearTimeout(this.#next);
    this.#next = setTimeout(() => this.#expire(`The model server sent no more text for ${idleMs} ms`), idleMs);
  }

  /** The stream, until a time runs out: a transport that does not obey its signal holds nobody up. */
  async *over<T>(stream: AsyncIterable<T>): AsyncGenerator<T, void, undefined> {
    const iterator = stream[Symbol.asyncIterator]();
    for (;;) {
      const next = await Promise.race([iterator.next(), this.#expired.promise]);
      if (next.done === true) return;
      yield next.value;
    }
  }

  stop(): void {
    clearTimeout(this.#next);
    clearTimeout(this.#total);
    this.#controller.abort();
  }

  #expire(message: string): void {
    this.#fault = brokenOff(message);
    this.#controller.abort(this.#fault);
    this.#expired.reject(this.#fault);
  }
}
