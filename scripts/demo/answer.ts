import type { SeenEvent } from './event-stream.ts';

/** What a stream says, folded: a later attempt replaces what the earlier one said after its last checkpoint. */
export class Answer {
  readonly events: SeenEvent[] = [];
  sources: { n: number; path: string; heading: string }[] = [];
  #deltas: { seq: number; text: string }[] = [];

  /** @returns the text the event adds */
  add(event: SeenEvent): string {
    this.events.push(event);
    const value = JSON.parse(event.json);
    if (event.type === 'attempt') {
      this.#deltas = value.resumed
        ? this.#deltas.filter(({ seq }) => value.from === undefined || seq < value.from)
        : [];
    } else if (event.type === 'sources') this.sources = value.sources;
    else if (event.type === 'delta') {
      this.#deltas.push({ seq: event.seq, text: value.text });
      return value.text;
    }
    return '';
  }

  get text(): string {
    return this.#deltas.map(({ text }) => text).join('');
  }

  /** Every event as the journal has it. */
  get story(): string {
    return this.events.map(({ seq, type, json }) => `${seq} ${type} ${json}`).join('\n');
  }
}
