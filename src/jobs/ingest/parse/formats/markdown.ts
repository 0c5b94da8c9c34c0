/** Markdown and MDX, with front matter. */
import type { Block } from '../../blocks.ts';
import { readBlocks } from '../../markdown.ts';
import type { Parsed, TextFormat } from '../format.ts';
import { readFrontMatter } from '../front-matter.ts';

/** `import` and `export` statements of MDX, which begin a line outside of paragraphs. */
const ESM = /^(?:import\s+(?:[\w*{'"]|$)|export\s+(?:default|const|let|var|function|async|class|\*|\{))/;
/** A line that has tags or a comment of JSX and nothing else. */
const JSX_LINE = /^[ \t]*(?:<\/?>|<\/?[A-Z][\w.]*(?:\s[^<>]*)?\/?>|\{\/\*.*\*\/\})[ \t]*$/;

export const MARKDOWN: TextFormat = {
  kind: 'markdown',
  from: 'text',
  extensions: ['.md', '.markdown', '.mkd', '.mdown', '.qmd', '.rmd'],
  mediaTypes: ['text/markdown', 'text/x-markdown'],
  parse: (text) => parseMarkdown(text, (lines) => lines),
};

export const MDX: TextFormat = {
  kind: 'mdx',
  from: 'text',
  extensions: ['.mdx'],
  mediaTypes: ['text/mdx'],
  parse: (text) => parseMarkdown(text, withoutJsx),
};

/** @param clean makes lines blank that are no text; places stay what they are */
async function parseMarkdown(text: string, clean: (lines: string[]) => string[]): Promise<Parsed> {
  const lines = text.split('\n');
  const front = await readFrontMatter(lines);
  const body = clean(lines.slice(front.next));
  const offset = lines.slice(0, front.next).reduce((length, line) => length + line.length + 1, 0);
  const blocks = readBlocks(body, offset);
  const opening = blocks[0]?.kind === 'heading' ? blocks[0].text : undefined;
  const title = front.title ?? blocks.find((block) => block.kind === 'heading' && block.level === 1)?.text ?? opening;
  const place = { start: 0, end: Math.max(0, offset - 1) };
  if (front.description !== undefined) blocks.unshift({ kind: 'text', text: front.description, ...place });
  if (blocks.length > 0 || front.title === undefined) return { title, text, blocks };
  const heading: Block = { kind: 'heading', level: 1, text: front.title, ...place };
  return { title, text, blocks: [heading], titleOnly: true };
}

/** Blank lines, as long as what they stand for: places after them stay right. */
function withoutJsx(lines: string[]): string[] {
  let fence: string | undefined;
  let inEsm = false;
  return lines.map((line, at) => {
    const mark = /^[ \t]*(`{3,}|~{3,})/.exec(line)?.[1];
    if (fence !== undefined || mark !== undefined) {
      if (fence === undefined) fence = mark;
      else if (mark?.startsWith(fence) === true) fence = undefined;
      return line;
    }
    const isBlank = line.trim() === '';
    if (inEsm && !isBlank) return ' '.repeat(line.length);
    inEsm = ESM.test(line) && (at === 0 || (lines[at - 1] as string).trim() === '');
    return inEsm || JSX_LINE.test(line) ? ' '.repeat(line.length) : line;
  });
}
