/**
 * Answers written by a model behind any OpenAI-compatible server.
 *
 * A server that is busy or unreachable is asked again inside the attempt, for minutes if need be, as long as nothing
 * of the answer has come: that costs no attempt of the job, and nothing at most servers. Once there is text, a fault
 * ends the attempt, and the next one continues after that text.
 */
import { limitsOf, type ModelSettings, type ModelTarget } from '../../../model-settings.ts';
import { MODEL_PACKAGES, requirePackages } from '../../../optional.ts';
import { Continuation } from './continuation.ts';
import { ModelFault } from './errors.ts';
import { delayAfter, digest, pause } from './patience.ts';
import { type CountTokens, type ModelQuestion, toInstructions, toMessages } from './prompt.ts';
import { type RequestPart, requestAnswer, type Usage } from './request.ts';
import type { TextPart } from './think.ts';

export type AnswerPart =
  | TextPart
  /** Nothing of the answer has come; it is asked for again after `delayMs`. */
  | { type: 'waiting'; delayMs: number; error: { code: string; message: string } }
  /** `estimated`: the server did not say. `model`: which one was asked. */
  | ({ type: 'usage'; model: string; estimated: boolean } & Usage);

interface AskOptions {
  signal: AbortSignal;
  fetch?: typeof globalThis.fetch | undefined;
  countTokens: CountTokens;
  /** Key of the outside effect of this name, the same in every attempt of the job. */
  keyFor(step: string): string;
}

/** The estimate that prompts are fitted by. Right to some per cent for most texts; no model's own tokenizer. */
export async function loadTokenCounter(): Promise<CountTokens> {
  requirePackages('An answer by a model', MODEL_PACKAGES);
  const { estimateTokenCount } = await import('tokenx');
  return (text) => estimateTokenCount(text);
}

/**
 * The model's answer as it comes, without what `question.begun` has of it; usage last.
 *
 * @throws NonRetryableError MODEL_FAILED the server refuses the request, or the same request would end the same way
 * @throws RetryAfterError the server names a time, and patience has an end before it
 * @throws OncefleetError MODEL_FAILED the server fails, cannot be reached, took too long or broke off
 * @throws the signal's reason, once the request is cut
 */
export async function* streamModelAnswer(
  settings: ModelSettings,
  question: ModelQuestion,
  options: AskOptions,
): AsyncGenerator<AnswerPart, void, undefined> {
  const { signal } = options;
  signal.throwIfAborted();
  requirePackages('An answer by a model', MODEL_PACKAGES);
  const limits = limitsOf(settings);
  const prompt = { instructions: toInstructions(question), messages: toMessages(question) };
  const targets = new Targets(settings);
  const giveUpAt = performance.now() + limits.patienceMs;
  for (let tries = 1; ; tries++) {
    const target = targets.next();
    const meter = new Meter(target, prompt, options.countTokens);
    try {
      const request = { ...prompt, limits, signal, fetch: options.fetch ?? globalThis.fetch };
      const key = options.keyFor(`model-${digest([target.name, prompt])}`);
      yield* continued(meter.over(requestAnswer(target, { ...request, key })), question.begun);
      yield meter.usage();
      return;
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof ModelFault)) throw error;
      if (meter.hasBegun) {
        yield meter.usage();
        throw error.error;
      }
      // The other model is asked at once, whatever is wrong with the first.
      const delayMs = targets.hasUnasked ? 0 : delayAfter(error, tries);
      if (delayMs === undefined || (!targets.hasUnasked && performance.now() + delayMs > giveUpAt)) throw error.error;
      yield { type: 'waiting', delayMs, error: { code: error.error.code, message: error.error.message } };
      await pause(delayMs, signal);
    }
  }
}

/** Whom to ask next. */
class Targets {
  readonly #all: readonly ModelTarget[];
  #asked = 0;

  constructor({ fallback, ...first }: ModelSettings) {
    this.#all = fallback === undefined ? [first] : [first, fallback];
  }

  next(): ModelTarget {
    const target = this.#all[this.#asked % this.#all.length] as ModelTarget;
    this.#asked++;
    return target;
  }

  get hasUnasked(): boolean {
    return this.#asked < this.#all.length;
  }
}

interface Prompt {
  instructions: string;
  messages: readonly { content: unknown }[];
}

/** What a request has cost, by the server's word or by an estimate. */
class Meter {
  readonly #target: ModelTarget;
  readonly #prompt: Prompt;
  readonly #count: CountTokens;
  #text = '';
  #usage: Usage | undefined;

  constructor(target: ModelTarget, prompt: Prompt, count: CountTokens) {
    this.#target = target;
    this.#prompt = prompt;
    this.#count = count;
  }

  /** Whether anything that costs has come. */
  get hasBegun(): boolean {
    return this.#text !== '';
  }

  /** The text of an answer; its usage is kept. */
  async *over(parts: AsyncIterable<RequestPart>): AsyncGenerator<TextPart, void, undefined> {
    for await (const part of parts) {
      if (part.type === 'usage') {
        const { inputTokens, outputTokens, totalTokens } = part;
        this.#usage = { inputTokens, outputTokens, totalTokens };
      } else {
        this.#text += part.text;
        yield part;
      }
    }
  }

  usage(): AnswerPart {
    const model = this.#target.name;
    if (this.#usage !== undefined) return { type: 'usage', model, estimated: false, ...this.#usage };
    const asked = [this.#prompt.instructions, ...this.#prompt.messages.map(({ content }) => String(content))];
    const inputTokens = asked.reduce((sum, text) => sum + this.#count(text), 0);
    const outputTokens = this.#count(this.#text);
    return {
      type: 'usage',
      model,
      estimated: true,
      inputTokens,
      outputTokens,
      totalTokens: inputTokens + outputTokens,
    };
  }
}

/** The parts of an answer whose beginning stands already. */
async function* continued(parts: AsyncIterable<TextPart>, begun: string): AsyncGenerator<TextPart, void, undefined> {
  const continuation = new Continuation(begun);
  for await (const part of parts) {
    const text = part.type === 'delta' ? continuation.push(part.text) : part.text;
    if (text !== '') yield { type: part.type, text };
  }
  const rest = continuation.end();
  if (rest !== '') yield { type: 'delta', text: rest };
}
