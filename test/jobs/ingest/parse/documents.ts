/** Documents for tests, good and bad, made here. */
import { constants, deflateRawSync } from 'node:zlib';
import { Document, HeadingLevel, Packer, Paragraph, Table, TableCell, TableRow, TextRun } from 'docx';
import JSZip from 'jszip';
import { PDFDocument, StandardFonts } from 'pdf-lib';

interface Page {
  heading?: string;
  paragraphs: readonly string[];
}

/** Each line of a paragraph is a line on the page; a page has a running header and its number at the foot. */
export async function makePdf(pages: readonly Page[], { title }: { title?: string } = {}): Promise<Uint8Array> {
  const pdf = await PDFDocument.create();
  if (title !== undefined) pdf.setTitle(title);
  const font = await pdf.embedFont(StandardFonts.Helvetica);
  for (const [number, { heading, paragraphs }] of pages.entries()) {
    const page = pdf.addPage([595, 842]);
    let y = 780;
    const write = (text: string, size: number): void => {
      page.drawText(text, { x: 50, y, size, font });
      y -= size * 1.3;
    };
    page.drawText('Acme Manual', { x: 50, y: 820, size: 8, font });
    page.drawText(`${number + 1}`, { x: 290, y: 30, size: 8, font });
    if (heading !== undefined) {
      write(heading, 20);
      y -= 10;
    }
    for (const paragraph of paragraphs) {
      for (const line of paragraph.split('\n')) write(line, 11);
      y -= 12;
    }
  }
  return await pdf.save();
}

export async function makeDocx(title = ''): Promise<Uint8Array> {
  const cells = (texts: readonly string[]) => texts.map((text) => new TableCell({ children: [new Paragraph(text)] }));
  const document = new Document({
    title,
    sections: [
      {
        children: [
          new Paragraph({ text: 'Installation', heading: HeadingLevel.HEADING_1 }),
          new Paragraph({
            children: [new TextRun('Turn the '), new TextRun({ text: 'valve', bold: true }), new TextRun('.')],
          }),
          new Paragraph({ text: 'Parts', heading: HeadingLevel.HEADING_2 }),
          new Paragraph({ text: 'a nut', bullet: { level: 0 } }),
          new Paragraph({ text: 'a bolt', bullet: { level: 0 } }),
          new Table({
            rows: [
              new TableRow({ children: cells(['part', 'count']) }),
              new TableRow({ children: cells(['nut', '4']) }),
            ],
          }),
        ],
      },
    ],
  });
  return new Uint8Array(await Packer.toBuffer(document));
}

/** Deflated zeros, without all of them ever being there. @returns a raw stream that expands to `megabytes` MiB */
function deflatedZeros(megabytes: number): Buffer {
  const block = deflateRawSync(Buffer.alloc(1_048_576), { level: 9, finishFlush: constants.Z_FULL_FLUSH });
  const end = deflateRawSync(Buffer.alloc(0));
  return Buffer.concat([...Array.from({ length: megabytes }, () => block), end]);
}

/** A DOCX of about `megabytes` KiB whose main part expands to `megabytes` MiB and says that it has a few bytes. */
export async function makeDocxBomb(megabytes: number): Promise<Uint8Array> {
  const zip = await JSZip.loadAsync(await makeDocx());
  const mark = 'word/bomb.xml';
  zip.file(mark, 'x', { compression: 'DEFLATE' });
  const whole = Buffer.from(await zip.generateAsync({ type: 'uint8array' }));
  // JSZip writes entries in their order, so the last one's data ends where the central directory begins.
  const local = whole.indexOf(Buffer.from(mark)) - 30;
  const central = whole.indexOf(Buffer.from('PK\x01\x02'));
  const data = deflatedZeros(megabytes);
  const head = Buffer.from(whole.subarray(local, local + 30 + mark.length));
  head.writeUInt32LE(data.length, 18);
  const tail = Buffer.from(whole.subarray(central));
  const entry = tail.indexOf(Buffer.from(mark)) - 46;
  tail.writeUInt32LE(data.length, entry + 20);
  const end = tail.lastIndexOf(Buffer.from('PK\x05\x06'));
  tail.writeUInt32LE(local + head.length + data.length, end + 16);
  return new Uint8Array(Buffer.concat([whole.subarray(0, local), head, data, tail]));
}

/** A PDF whose page is drawn by a stream that expands to `megabytes` MiB. */
export function makePdfBomb(megabytes: number): Uint8Array {
  const data = Buffer.concat([Buffer.from([0x78, 0xda]), deflatedZeros(megabytes), Buffer.alloc(4)]);
  const objects = [
    '<< /Type /Catalog /Pages 2 0 R >>',
    '<< /Type /Pages /Kids [3 0 R] /Count 1 >>',
    '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R >>',
  ].map((body, at) => Buffer.from(`${at + 1} 0 obj\n${body}\nendobj\n`));
  const stream = [
    Buffer.from(`4 0 obj\n<< /Length ${data.length} /Filter /FlateDecode >>\nstream\n`),
    data,
    Buffer.from('\nendstream\nendobj\n'),
  ];
  const parts = [Buffer.from('%PDF-1.4\n'), ...objects, Buffer.concat(stream)];
  const offsets: number[] = [];
  let at = 0;
  for (const part of parts) {
    offsets.push(at);
    at += part.length;
  }
  const rows = offsets.slice(1).map((offset) => `${String(offset).padStart(10, '0')} 00000 n \n`);
  const table = `xref\n0 5\n0000000000 65535 f \n${rows.join('')}trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n${at}\n%%EOF\n`;
  return new Uint8Array(Buffer.concat([...parts, Buffer.from(table)]));
}

/** Text in an encoding that Node only decodes: the table of `TextDecoder`, turned around. */
export function encode(text: string, encoding: string): Uint8Array {
  const decoder = new TextDecoder(encoding);
  const table = new Map<string, readonly number[]>();
  const put = (bytes: readonly number[]): void => {
    const character = decoder.decode(Uint8Array.from(bytes));
    if ([...character].length === 1 && character !== '\ufffd' && !table.has(character)) table.set(character, bytes);
  };
  for (let one = 0; one < 256; one++) put([one]);
  for (let one = 0x81; one < 0xff; one++) for (let two = 0x40; two < 0xff; two++) put([one, two]);
  return Uint8Array.from([...text].flatMap((character) => table.get(character) ?? []));
}
