/** Which models answer and embed, and how long and how much of them is waited for. */
import type { Issue } from './errors.ts';
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

export interface EmbeddingLimits {
  /** Longest that one request may last, in milliseconds. */
  requestMs: number;
  /** Longest that a question waits for its vector, in milliseconds; then it is answered by its words alone. */
  questionMs: number;
  /** How long a server that is busy or unreachable is asked again before the attempt fails, in milliseconds; 0: not at all. */
  patienceMs: number;
  /** Most chunks in one request. */
  batch: number;
  /** Most requests of this process in a minute; undefined: as many as go one after another. */
  requestsPerMinute: number | undefined;
}

/** A model behind an OpenAI-compatible server that makes vectors of texts. */
export interface EmbeddingSettings extends ModelTarget {
  limits?: Partial<EmbeddingLimits> | undefined;
}

export const EMBEDDING_RANGES = {
  requestMs: { min: 100, max: 600_000, default: 60_000 },
  questionMs: { min: 10, max: 60_000, default: 2_000 },
  patienceMs: { min: 0, max: 3_600_000, default: 300_000 },
  batch: { min: 1, max: 2_048, default: 64 },
} as const satisfies Record<string, Range>;

/** It has no default. */
export const EMBEDDING_REQUESTS_PER_MINUTE = { min: 1, max: 1_000_000 };

export function embeddingLimitsOf({ limits }: EmbeddingSettings): EmbeddingLimits {
  const { requestMs, questionMs, patienceMs, batch } = EMBEDDING_RANGES;
  return {
    requestMs: limits?.requestMs ?? requestMs.default,
    questionMs: limits?.questionMs ?? questionMs.default,
    patienceMs: limits?.patienceMs ?? patienceMs.default,
    batch: limits?.batch ?? batch.default,
    requestsPerMinute: limits?.requestsPerMinute,
  };
}

/** Variables of the environment, by name. */
interface ModelVariables {
  OPENAI_BASE_URL: string | undefined;
  OPENAI_API_KEY: string | undefined;
  OPENAI_MODEL: string | undefined;
  OPENAI_FIRST_TOKEN_MS: number;
  OPENAI_IDLE_MS: number;
  OPENAI_TOTAL_MS: number;
  OPENAI_PATIENCE_MS: number;
  OPENAI_PROMPT_TOKENS: number;
  OPENAI_MAX_OUTPUT_TOKENS: number | undefined;
  OPENAI_FALLBACK_MODEL: string | undefined;
  OPENAI_FALLBACK_BASE_URL: string | undefined;
  OPENAI_FALLBACK_API_KEY: string | undefined;
  EMBEDDING_MODEL: string | undefined;
  EMBEDDING_BASE_URL: string | undefined;
  EMBEDDING_API_KEY: string | undefined;
  EMBEDDING_REQUEST_MS: number;
  EMBEDDING_QUESTION_MS: number;
  EMBEDDING_PATIENCE_MS: number;
  EMBEDDING_BATCH: number;
  EMBEDDING_REQUESTS_PER_MINUTE: number | undefined;
}

/** What is wrong between the settings of the models. */
export function modelIssues(v: Partial<ModelVariables>): Issue[] {
  const issues: Issue[] = [];
  if (v.OPENAI_MODEL !== undefined && v.OPENAI_BASE_URL === undefined) {
    issues.push({
      path: 'OPENAI_BASE_URL',
      message: 'is required when OPENAI_MODEL is set (https://api.openai.com/v1 is OpenAI itself)',
    });
  }
  if (v.OPENAI_BASE_URL !== undefined && v.OPENAI_MODEL === undefined) {
    issues.push({ path: 'OPENAI_MODEL', message: 'is required when OPENAI_BASE_URL is set' });
  }
  for (const name of ['OPENAI_FALLBACK_BASE_URL', 'OPENAI_FALLBACK_API_KEY'] as const)
    if (v[name] !== undefined && v.OPENAI_FALLBACK_MODEL === undefined)
      issues.push({ path: 'OPENAI_FALLBACK_MODEL', message: `is required when ${name} is set` });
  if (v.OPENAI_FALLBACK_MODEL !== undefined && v.OPENAI_MODEL === undefined)
    issues.push({ path: 'OPENAI_MODEL', message: 'is required when OPENAI_FALLBACK_MODEL is set' });
  for (const name of ['EMBEDDING_BASE_URL', 'EMBEDDING_API_KEY'] as const)
    if (v[name] !== undefined && v.EMBEDDING_MODEL === undefined)
      issues.push({ path: 'EMBEDDING_MODEL', message: `is required when ${name} is set` });
  if (v.EMBEDDING_MODEL !== undefined && v.EMBEDDING_BASE_URL === undefined && v.OPENAI_BASE_URL === undefined)
    issues.push({
      path: 'EMBEDDING_BASE_URL',
      message: 'is required when EMBEDDING_MODEL is set without OPENAI_BASE_URL',
    });
  return issues;
}

export function modelOf(all: ModelVariables): ModelSettings | undefined {
  if (all.OPENAI_BASE_URL === undefined || all.OPENAI_MODEL === undefined) return undefined;
  const isElsewhere = all.OPENAI_FALLBACK_BASE_URL !== undefined;
  return {
    baseUrl: all.OPENAI_BASE_URL,
    apiKey: all.OPENAI_API_KEY,
    name: all.OPENAI_MODEL,
    limits: {
      firstTokenMs: all.OPENAI_FIRST_TOKEN_MS,
      idleMs: all.OPENAI_IDLE_MS,
      totalMs: all.OPENAI_TOTAL_MS,
      patienceMs: all.OPENAI_PATIENCE_MS,
      promptTokens: all.OPENAI_PROMPT_TOKENS,
      maxOutputTokens: all.OPENAI_MAX_OUTPUT_TOKENS,
    },
    ...(all.OPENAI_FALLBACK_MODEL === undefined
      ? {}
      : {
          fallback: {
            baseUrl: all.OPENAI_FALLBACK_BASE_URL ?? all.OPENAI_BASE_URL,
            // The key of one server is not shown to another.
            apiKey: all.OPENAI_FALLBACK_API_KEY ?? (isElsewhere ? undefined : all.OPENAI_API_KEY),
            name: all.OPENAI_FALLBACK_MODEL,
          },
        }),
  };
}

/** What makes vectors of texts; server and key are those of the answers where it has none of its own. */
export function embeddingOf(all: ModelVariables): EmbeddingSettings | undefined {
  const baseUrl = all.EMBEDDING_BASE_URL ?? all.OPENAI_BASE_URL;
  if (all.EMBEDDING_MODEL === undefined || baseUrl === undefined) return undefined;
  return {
    baseUrl,
    // The key of one server is not shown to another.
    apiKey: all.EMBEDDING_API_KEY ?? (all.EMBEDDING_BASE_URL === undefined ? all.OPENAI_API_KEY : undefined),
    name: all.EMBEDDING_MODEL,
    limits: {
      requestMs: all.EMBEDDING_REQUEST_MS,
      questionMs: all.EMBEDDING_QUESTION_MS,
      patienceMs: all.EMBEDDING_PATIENCE_MS,
      batch: all.EMBEDDING_BATCH,
      requestsPerMinute: all.EMBEDDING_REQUESTS_PER_MINUTE,
    },
  };
}
