import { createFolder } from '../../src/journal/fold.ts';
import type { SeenEvent } from './event-stream.ts';

/** What a stream says: event by event, and folded. */
export class Answer {
  readonly events: SeenEvent[] = [];
  readonly #folder = createFolder();

  /** @returns the text the event adds */
  add(event: SeenEvent): string {
    this.events.push(event);
    const value = JSON.parse(event.json);
    this.#folder.add({ seq: event.seq, event: value });
    return event.type === 'delta' ? value.text : '';
  }

  get text(): string {
    return this.#folder.state.text;
  }

  get sources(): readonly { n: number; path: string; heading: string }[] {
    return this.#folder.state.sources as readonly { n: number; path: string; heading: string }[];
  }

  /** Every event as the journal has it. */
  get story(): string {
    return this.events.map(({ seq, type, json }) => `${seq} ${type} ${json}`).join('\n');
  }
}
