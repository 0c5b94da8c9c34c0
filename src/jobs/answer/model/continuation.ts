/** Joins what a model writes after a break to what stands of its answer already. */

/** Fewer equal letters are chance. In UTF-16 units. */
const LEAST_OVERLAP = 12;
/** As far back as a model begins when it continues a little too early, and as much as must come to tell. */
const MOST_OVERLAP = 200;

/**
 * Models that are asked to continue often repeat the last words, and some begin the whole answer again. What is
 * there already is left out.
 */
export class Continuation {
  readonly #earlier: string;
  /** Undefined once it is decided where the new text begins. */
  #held: string | undefined = '';
  /** How much of `earlier` the new text has repeated from its beginning. */
  #repeated: number | undefined;

  constructor(earlier: string) {
    this.#earlier = earlier;
    if (earlier === '') this.#held = undefined;
  }

  /** What of `text` is new. */
  push(text: string): string {
    if (this.#repeated !== undefined) return this.#skip(text);
    if (this.#held === undefined) return text;
    this.#held += text;
    return this.#held.length < MOST_OVERLAP ? '' : this.#decide();
  }

  /** The rest: no more comes. */
  end(): string {
    return this.#held === undefined ? '' : this.#decide();
  }

  #decide(): string {
    const text = this.#held ?? '';
    this.#held = undefined;
    const both = Math.min(text.length, this.#earlier.length, MOST_OVERLAP);
    if (both >= LEAST_OVERLAP && text.slice(0, both) === this.#earlier.slice(0, both)) {
      this.#repeated = 0;
      return this.#skip(text);
    }
    for (let length = Math.min(text.length, MOST_OVERLAP, this.#earlier.length); length >= LEAST_OVERLAP; length--)
      if (this.#earlier.endsWith(text.slice(0, length))) return text.slice(length);
    return text;
  }

  /** Leaves out what equals the answer so far; from the first difference on, all is new. */
  #skip(text: string): string {
    let at = this.#repeated ?? 0;
    let index = 0;
    while (index < text.length && at < this.#earlier.length && text[index] === this.#earlier[at]) {
      index++;
      at++;
    }
    if (index === text.length && at < this.#earlier.length) {
      this.#repeated = at;
      return '';
    }
    this.#repeated = undefined;
    return text.slice(index);
  }
}
