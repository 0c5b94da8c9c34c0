/** HTML as Markdown that is read as blocks again. */
/// <reference path="./turndown.d.ts" />
import type TurndownService from 'turndown';
import { loadPackage } from '../packages.ts';

/** What a text would begin a block of Markdown with, at the start of a paragraph. */
const BLOCK_MARK = /^(?:#{1,6}(?=\s)|[-+*](?=\s)|>|={3,}$|-{3,}$|_{3,}$|`{3,}|~{3,}|\|)/;

/** Text stays as it is: nothing is escaped but what would begin another block. */
export async function toMarkdown(html: string): Promise<string> {
  const { default: Turndown } = await loadPackage('turndown', () => import('turndown'));
  const { gfm } = await loadPackage('@joplin/turndown-plugin-gfm', () => import('@joplin/turndown-plugin-gfm'));
  const service = new Turndown({
    headingStyle: 'atx',
    codeBlockStyle: 'fenced',
    bulletListMarker: '-',
    hr: '---',
    br: '',
  });
  service.use(gfm);
  addRules(service);
  service.escape = (text) =>
    text.replace(BLOCK_MARK, (mark) => `\\${mark}`).replace(/^(\d{1,9})([.)])(?=\s)/, '$1\\$2');
  return service
    .turndown(html)
    .replace(/[ \t]+$/gm, '')
    .replaceAll('\0', '')
    .toWellFormed();
}

function addRules(service: TurndownService): void {
  service.addRule('preformatted', {
    filter: 'pre',
    replacement: (_content, node) => {
      const code = (node.textContent ?? '').replace(/^\n|\s+$/g, '');
      const classes = [node, ...Array.from(node.querySelectorAll('code'))]
        .map((one) => one.getAttribute('class') ?? '')
        .join(' ');
      const language = /\b(?:language|lang|highlight-source)-([\w+#-]{1,30})/.exec(classes)?.[1] ?? '';
      const mark = '`'.repeat(Math.max(3, ...[...code.matchAll(/`{3,20}/g)].map(([ticks]) => ticks.length + 1)));
      return `\n\n${mark}${language}\n${code}\n${mark}\n\n`;
    },
  });
  service.addRule('image', {
    filter: 'img',
    replacement: (_content, node) => (node.getAttribute('alt') ?? '').replace(/\s+/g, ' ').trim(),
  });
  service.addRule('link', {
    filter: 'a',
    replacement: (content, node) => {
      const href = node.getAttribute('href') ?? '';
      const text = content.trim();
      // Anchors beside headings, scripts and data: nothing that a reader could open.
      if (text === '' || /^(?:#|$|javascript:|data:)/i.test(href)) return /^[#¶§🔗]?$/u.test(text) ? '' : content;
      return /\n/.test(text) ? content : `[${text}](${href.replace(/[\s()]/g, encodeURIComponent)})`;
    },
  });
}
