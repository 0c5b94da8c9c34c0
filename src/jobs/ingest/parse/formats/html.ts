/** HTML: the main text of a page as Markdown, with its links, tables and code. */
import { readBlocks } from '../../markdown.ts';
import type { Parsed, TextFormat } from '../format.ts';
import { loadPackage } from '../packages.ts';
import type { HtmlDocument, HtmlElement } from './dom.ts';
import { toMarkdown } from './html-to-markdown.ts';

/** No text for readers. */
const NO_TEXT =
  'script, style, noscript, template, svg, canvas, iframe, object, embed, button, select, input, textarea, dialog, [hidden]';
/** Around the text of a page, unless it is in the text. */
const AROUND =
  'nav, footer, aside, header, [role="navigation"], [role="search"], [role="banner"], [role="contentinfo"]';
const MAIN = 'main, [role="main"], article';
/** What is marked as the main text has to be this much of what is visible; else the mark is on something else. */
const MIN_MARKED = 0.3;
/** Readability finds the article of a page; where it leaves out more than half, the page is no article. */
const MIN_ARTICLE = 0.5;
/** Where it leaves out next to nothing, the page is better as it stands: it changes headings. */
const MAX_ARTICLE = 0.9;

export const HTML: TextFormat = {
  kind: 'html',
  from: 'text',
  extensions: ['.html', '.htm', '.xhtml'],
  mediaTypes: ['text/html', 'application/xhtml+xml'],
  parse: parseHtml,
};

async function parseHtml(html: string): Promise<Parsed> {
  const { parseHTML } = await loadPackage('linkedom', () => import('linkedom'));
  // Without these a fragment has no body.
  const whole = /<(?:html|body)[\s>]/i.test(html) ? html : `<!doctype html><html><body>${html}</body></html>`;
  const { document } = parseHTML(whole) as unknown as { document: HtmlDocument };
  const title = titleOf(document);
  for (const node of Array.from(document.querySelectorAll(NO_TEXT))) node.remove();
  const main = await mainPart(document);
  const text = await toMarkdown(main);
  const blocks = readBlocks(text.split('\n'));
  const first = blocks.find((block) => block.kind === 'heading')?.text;
  const parsed: Parsed = { title: title ?? first, text, blocks };
  if (blocks.length > 0 || title === undefined) return parsed;
  return {
    ...parsed,
    text: title,
    blocks: [{ kind: 'heading', level: 1, text: title, start: 0, end: title.length }],
    titleOnly: true,
  };
}

function titleOf(document: HtmlDocument): string | undefined {
  const given =
    document.querySelector('meta[property="og:title"]')?.getAttribute('content') ??
    document.querySelector('title')?.textContent;
  const title = given?.replace(/\s+/g, ' ').trim().slice(0, 300) ?? '';
  return title === '' ? undefined : title;
}

/** @returns HTML */
async function mainPart(document: HtmlDocument): Promise<string> {
  const body = document.body ?? document.documentElement;
  for (const node of Array.from(body.querySelectorAll(AROUND))) {
    if (node.closest(MAIN) === null && node.querySelector('h1') === null) node.remove();
  }
  const visible = lengthOf(body);
  const marked = Array.from(body.querySelectorAll(MAIN)).filter((node) => node.parentElement?.closest(MAIN) == null);
  // Several are the articles of one page, such as a blog's.
  if (marked.length > 0 && marked.reduce((sum, node) => sum + lengthOf(node), 0) >= visible * MIN_MARKED)
    return marked.map((node) => node.outerHTML).join('\n');
  const { Readability } = await loadPackage('@mozilla/readability', () => import('@mozilla/readability'));
  // It takes apart the document it gets.
  const article = new Readability(document.cloneNode(true) as never, { maxElemsToParse: 50_000 }).parse();
  const kept = (article?.textContent?.replace(/\s+/g, ' ').length ?? 0) / visible;
  return article?.content != null && kept >= MIN_ARTICLE && kept < MAX_ARTICLE ? article.content : body.innerHTML;
}

function lengthOf(node: HtmlElement): number {
  return node.textContent?.replace(/\s+/g, ' ').length ?? 0;
}
