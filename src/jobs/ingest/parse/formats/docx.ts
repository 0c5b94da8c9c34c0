/** DOCX: headings, lists, tables and text as Markdown. */
import { DocumentError } from '../../../../errors.ts';
import { readBlocks } from '../../markdown.ts';
import type { BinaryFormat, Parsed } from '../format.ts';
import type { DocumentLimits } from '../limits.ts';
import { loadPackage } from '../packages.ts';
import { toMarkdown } from './html-to-markdown.ts';

const STYLES = ["p[style-name='Title'] => h1:fresh", "p[style-name='Subtitle'] => p:fresh"];

export const DOCX: BinaryFormat = {
  kind: 'docx',
  from: 'bytes',
  extensions: ['.docx'],
  mediaTypes: ['application/vnd.openxmlformats-officedocument.wordprocessingml.document'],
  parse: parseDocx,
};

async function parseDocx(bytes: Uint8Array, limits: DocumentLimits): Promise<Parsed> {
  const core = await checkExpansion(bytes, limits);
  const { default: mammoth } = await loadPackage('mammoth', () => import('mammoth'));
  const { value } = await mammoth
    .convertToHtml(
      { buffer: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length) },
      {
        styleMap: STYLES,
        // A document may name any file of this machine as one of its images.
        externalFileAccess: false,
        convertImage: mammoth.images.imgElement(async () => ({ src: '' })),
      },
    )
    .catch((error: Error) => {
      throw damaged(error);
    });
  const text = await toMarkdown(withHeaders(value));
  const blocks = readBlocks(text.split('\n'));
  const title = titleOf(core) ?? blocks.find(({ kind }) => kind === 'heading')?.text;
  return { title, text, blocks };
}

/**
 * Expands every entry once, and keeps nothing of it: what an entry says of its size is the word of a stranger, and
 * buffers are outside of the heap that is capped. The package is the one that mammoth reads with.
 *
 * @returns the properties of the document, as XML
 * @throws DocumentError DOCUMENT_TOO_LARGE, DOCUMENT_DAMAGED
 */
async function checkExpansion(bytes: Uint8Array, { maxExpandedBytes }: DocumentLimits): Promise<string> {
  const { default: JSZip } = await loadPackage('jszip', () => import('jszip'));
  const zip = await JSZip.loadAsync(bytes).catch((error: Error) => {
    throw damaged(error);
  });
  let expanded = 0;
  for (const entry of Object.values(zip.files)) {
    if (entry.dir) continue;
    await new Promise<void>((resolve, reject) => {
      const stream = entry.nodeStream();
      stream.on('data', (part: Uint8Array) => {
        expanded += part.length;
        if (expanded <= maxExpandedBytes) return;
        stream.pause();
        reject(new DocumentError('DOCUMENT_TOO_LARGE', `expands to more than ${maxExpandedBytes} bytes`));
      });
      stream.on('end', resolve);
      stream.on('error', (error: Error) => reject(damaged(error)));
    });
  }
  return (await zip.file('docProps/core.xml')?.async('string')) ?? '';
}

function damaged({ message }: Error): DocumentError {
  return new DocumentError('DOCUMENT_DAMAGED', `is damaged or cut off: ${message}`);
}

function titleOf(core: string): string | undefined {
  const given = /<dc:title>([^<]{1,1000})<\/dc:title>/.exec(core)?.[1] ?? '';
  const entities: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };
  const title = given
    .replace(/&(amp|lt|gt|quot|apos);/g, (_, name: string) => entities[name] as string)
    .replace(/\s+/g, ' ')
    .trim();
  return title === '' ? undefined : title.slice(0, 300);
}

/** The first row of a table is its header, where no row is marked as one. */
function withHeaders(html: string): string {
  return html.replace(/<table>(?!<thead>)<tr>(.*?)<\/tr>/gs, (table, cells: string) =>
    /<th[\s>]|<table/.test(cells) ? table : `<table><tr>${cells.replace(/<(\/?)td\b/g, '<$1th')}</tr>`,
  );
}
