/** Which model answers, and how long and how much of it is waited for. */
import type { Range } from './options.ts';

/** A model behind an OpenAI-compatible server. */
export interface ModelTarget {
  baseUrl: string;
  apiKey: string | undefined;
  name: string;
}

export interface ModelLimits {
  /** Longest from the request to the first text or reasoning, in milliseconds. */
  firstTokenMs: number;
  /** Longest pause in text and reasoning after that, in milliseconds. Pings and empty deltas do not count. */
  idleMs: number;
  /** Longest one request may last, in milliseconds. */
  totalMs: number;
  /** How long a server that is busy or unreachable is asked again before the attempt fails, in milliseconds; 0: not at all. */
  patienceMs: number;
  /** Largest prompt: instructions, history, sources and question. In tokens, estimated. */
  promptTokens: number;
  /** Sent as `max_tokens`; undefined: the server's own limit. */
  maxOutputTokens: number | undefined;
}

export interface ModelSettings extends ModelTarget {
  limits?: Partial<ModelLimits> | undefined;
  /** Asked where the first one has not begun to answer. */
  fallback?: ModelTarget | undefined;
}

export const MODEL_RANGES = {
  firstTokenMs: { min: 100, max: 3_600_000, default: 60_000 },
  idleMs: { min: 100, max: 3_600_000, default: 30_000 },
  totalMs: { min: 1_000, max: 86_400_000, default: 600_000 },
  patienceMs: { min: 0, max: 3_600_000, default: 300_000 },
  promptTokens: { min: 1_000, max: 1_000_000, default: 12_000 },
} as const satisfies Record<string, Range>;

/** Of `max_tokens`; it has no default. */
export const MAX_OUTPUT_TOKENS = { min: 1, max: 1_000_000 };

/**
 * The longest answer that is read, and the most reasoning, each in UTF-8 bytes. A model of today writes at most a
 * quarter of this; a server that continues has lost its way.
 */
export const MAX_ANSWER_BYTES = 1_048_576;

export function limitsOf({ limits }: ModelSettings): ModelLimits {
  const { firstTokenMs, idleMs, totalMs, patienceMs, promptTokens } = MODEL_RANGES;
  return {
    firstTokenMs: limits?.firstTokenMs ?? firstTokenMs.default,
    idleMs: limits?.idleMs ?? idleMs.default,
    totalMs: limits?.totalMs ?? totalMs.default,
    patienceMs: limits?.patienceMs ?? patienceMs.default,
    promptTokens: limits?.promptTokens ?? promptTokens.default,
    maxOutputTokens: limits?.maxOutputTokens,
  };
}
