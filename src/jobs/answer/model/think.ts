/** Tells a model's reasoning from its answer where a server sends both as text: `<think>…</think>` at the beginning. */

const OPEN = '<think>';
const CLOSE = '</think>';

export interface TextPart {
  type: 'delta' | 'reasoning';
  text: string;
}

/** Only what stands first is reasoning: an answer may well be about such tags. */
export class ThinkSplitter {
  #place: 'start' | 'reasoning' | 'gap' | 'answer' = 'start';
  /** Not yet known to be a tag or text. */
  #held = '';

  push(text: string): TextPart[] {
    if (this.#place === 'answer') return text === '' ? [] : [{ type: 'delta', text }];
    if (this.#place === 'gap') return this.#answer(text.trimStart());
    this.#held += text;
    if (this.#place === 'start') {
      const begun = this.#held.trimStart();
      if (begun.length < OPEN.length && OPEN.startsWith(begun)) return [];
      if (!begun.startsWith(OPEN)) return this.#answer(this.#held);
      this.#place = 'reasoning';
      this.#held = begun.slice(OPEN.length);
    }
    return this.#reason();
  }

  /** What is still held: the text is over. */
  end(): TextPart[] {
    const text = this.#held;
    this.#held = '';
    return text === '' ? [] : [{ type: this.#place === 'reasoning' ? 'reasoning' : 'delta', text }];
  }

  #reason(): TextPart[] {
    const close = this.#held.indexOf(CLOSE);
    if (close !== -1) {
      const text = this.#held.slice(0, close);
      const rest = this.#held.slice(close + CLOSE.length).trimStart();
      this.#place = 'gap';
      return [...(text === '' ? [] : [{ type: 'reasoning' as const, text }]), ...this.#answer(rest)];
    }
    const held = tailThatBegins(this.#held, CLOSE);
    const text = this.#held.slice(0, this.#held.length - held);
    this.#held = this.#held.slice(this.#held.length - held);
    return text === '' ? [] : [{ type: 'reasoning', text }];
  }

  #answer(text: string): TextPart[] {
    this.#held = '';
    if (text === '') return [];
    this.#place = 'answer';
    return [{ type: 'delta', text }];
  }
}

/** Length of the longest end of `text` that is a beginning of `tag`. */
function tailThatBegins(text: string, tag: string): number {
  for (let length = Math.min(text.length, tag.length - 1); length > 0; length--)
    if (tag.startsWith(text.slice(text.length - length))) return length;
  return 0;
}
