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
export class Bag<T extends Placed> {
  readonly #things: T[] = [];

  get size(): number {
    return this.#things.length;
  }

  add(thing: T): void {
    thing.place = this.#things.length;
    this.#things.push(thing);
  }

  /** Idempotent. @returns false: it was not there */
  remove(thing: T): boolean {
    const { place } = thing;
    if (this.#things[place] !== thing) return false;
    const last = this.#things.pop() as T;
    if (last !== thing) {
      this.#things[place] = last;
      last.place = place;
    }
    return true;
  }

  /** All that are held now, in no order. What comes and goes meanwhile does not show. */
  values(): readonly T[] {
    return [...this.#things];
  }
}
