/** The index of an item in its list; 0 when it is new. Written by the list alone. */
export interface Placed {
  place: number;
}

/**
 * An array with removal in O(1), in no order: for items of which hundreds are held at once and
 * thousands come and go a second.
 *
 * A `Map` or `Set` replaces its table again and again as entries go; a replaced table keeps its
 * entries and knows its successor, so one that has grown old keeps them all, and what they
 * refer to, until the next full collection: measured, half of what a run allocates and needs
 * no more was copied and kept like that. An array forgets what is overwritten.
 */
export class SwapList<T extends Placed> {
  readonly #items: T[] = [];

  get size(): number {
    return this.#items.length;
  }

  add(item: T): void {
    item.place = this.#items.length;
    this.#items.push(item);
  }

  /** Idempotent. @returns false: it was not there */
  remove(item: T): boolean {
    const { place } = item;
    if (this.#items[place] !== item) return false;
    const last = this.#items.pop() as T;
    if (last !== item) {
      this.#items[place] = last;
      last.place = place;
    }
    return true;
  }

  /** All that are held now, in no order. What comes and goes meanwhile does not show. */
  values(): readonly T[] {
    return [...this.#items];
  }
}
