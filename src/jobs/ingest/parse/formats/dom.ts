/** What is used of a DOM; its own types would bring a browser's globals into every file. */

export interface HtmlElement {
  readonly textContent: string | null;
  readonly innerHTML: string;
  readonly outerHTML: string;
  readonly parentElement: HtmlElement | null;
  closest(selector: string): HtmlElement | null;
  getAttribute(name: string): string | null;
  querySelector(selector: string): HtmlElement | null;
  querySelectorAll(selector: string): ArrayLike<HtmlElement>;
  remove(): void;
}

export interface HtmlDocument extends HtmlElement {
  readonly body: HtmlElement | null;
  readonly documentElement: HtmlElement;
  cloneNode(deep: true): HtmlDocument;
}
