import { setTimeout } from 'node:timers/promises';

/** Without a pace nobody watches word by word: fewer, longer deltas. In UTF-16 units. */
const UNPACED_LENGTH = 400;

/**
 * Finished text as deltas, one word each, `paceMs` apart.
 *
 * @throws the signal's reason; no timer outlives it
 */
export async function* paceText(
  text: string,
  paceMs: number,
  signal: AbortSignal,
): AsyncGenerator<string, void, undefined> {
  for (const piece of paceMs === 0 ? pieces(text) : (text.match(/\s*\S+\s*$|\s*\S+/g) ?? [])) {
    signal.throwIfAborted();
    yield piece;
    if (paceMs > 0) await pause(paceMs, signal);
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await setTimeout(ms, undefined, { signal });
  } catch (error) {
    // The timer's AbortError hides why.
    signal.throwIfAborted();
    throw error;
  }
}

function pieces(text: string): string[] {
  return text.match(new RegExp(`[\\s\\S]{1,${UNPACED_LENGTH}}(?=\\s|$)|[\\s\\S]{1,${UNPACED_LENGTH}}`, 'gu')) ?? [];
}
