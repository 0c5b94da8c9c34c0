/** What stands for all values of a label beyond the bound. */
const OTHER = 'other';

/** The longest value that is shown: names are shorter, and what a stranger sends is not. */
const MAX_LENGTH = 128;

/**
 * Bounds the values of a label: each is a time series that Prometheus keeps. The first that come are named, for as long as the
 * process lives, so that no counter ever goes down.
 */
export class BoundedLabel {
  readonly #max: number;
  readonly #known = new Set<string>();

  constructor(max: number) {
    this.#max = max;
  }

  of(value: string): string {
    if (this.#known.has(value)) return value;
    if (this.#known.size >= this.#max || value.length > MAX_LENGTH) return OTHER;
    this.#known.add(value);
    return value;
  }
}
