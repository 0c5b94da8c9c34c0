/** What is used of two packages that come without types. */

declare module 'turndown' {
  interface Rule {
    filter: string | readonly string[];
    replacement(content: string, node: import('./dom.ts').HtmlElement): string;
  }

  export default class TurndownService {
    constructor(options: Readonly<Record<string, string>>);
    addRule(name: string, rule: Rule): this;
    use(plugin: (service: TurndownService) => void): this;
    escape: (text: string) => string;
    turndown(html: string): string;
  }
}

declare module '@joplin/turndown-plugin-gfm' {
  import type TurndownService from 'turndown';

  function gfm(service: TurndownService): void;
}
