/**
 * A part of a collection's search index: some documents with the postings of their chunks. It never changes: a document
 * that is replaced or deleted stays in its part, and its number is noted as removed, until the part is merged.
 */
import type { BlockRow, PartRow } from '../db/search.ts';
import type { AnalysedChunk } from './analysis.ts';
import { BlockWriter, boundedFrequency, lengthCode, type PostingList, readVarint, writeVarint } from './postings.ts';

/** A document's place in a part. Its chunks have consecutive numbers there, in the order of the documents. */
export interface PartDocument {
  /** `search_number` of the version of the document that was indexed. */
  number: number;
  chunkCount: number;
  /** Of all its chunks. */
  wordCount: number;
}

interface DocumentToIndex {
  number: number;
  language: string;
  chunks: readonly AnalysedChunk[];
}

interface EncodedPart {
  row: Omit<PartRow, 'id'>;
  blocks: BlockRow[];
}

export function buildPart(documents: readonly DocumentToIndex[]): EncodedPart {
  const postings = new Map<string, { numbers: number[]; frequencies: number[]; lengths: number[] }>();
  // Numbers rise, so that their distances are small.
  const sorted = [...documents].sort((a, b) => a.number - b.number);
  let chunk = 0;
  for (const document of sorted) {
    for (const { terms, words } of document.chunks) {
      const code = lengthCode(words);
      for (const [term, frequency] of terms) {
        let list = postings.get(term);
        if (list === undefined) {
          list = { numbers: [], frequencies: [], lengths: [] };
          postings.set(term, list);
        }
        list.numbers.push(chunk);
        list.frequencies.push(boundedFrequency(frequency));
        list.lengths.push(code);
      }
      chunk++;
    }
  }
  const blocks: BlockRow[] = [];
  const writer = new BlockWriter((block) => blocks.push(block));
  for (const term of [...postings.keys()].sort()) {
    const { numbers, frequencies, lengths } = postings.get(term) as {
      numbers: number[];
      frequencies: number[];
      lengths: number[];
    };
    writer.add(term, {
      numbers: Int32Array.from(numbers),
      frequencies: Uint8Array.from(frequencies),
      lengths: Uint8Array.from(lengths),
    });
  }
  writer.flush();
  const described = sorted.map(({ number, chunks }) => ({
    number,
    chunkCount: chunks.length,
    wordCount: chunks.reduce((sum, { words }) => sum + words, 0),
  }));
  return {
    row: describePart(
      described,
      documents.map(({ language }) => language),
    ),
    blocks,
  };
}

/** The row of a part that has these documents. */
export function describePart(documents: readonly PartDocument[], languages: readonly string[]): Omit<PartRow, 'id'> {
  return {
    documentCount: documents.length,
    chunkCount: sum(documents, ({ chunkCount }) => chunkCount),
    wordCount: sum(documents, ({ wordCount }) => wordCount),
    languages: [...new Set(languages)].sort(),
    documents: encodeDocuments(documents),
  };
}

function sum(documents: readonly PartDocument[], count: (document: PartDocument) => number): number {
  return documents.reduce((total, document) => total + count(document), 0);
}

function encodeDocuments(documents: readonly PartDocument[]): Buffer {
  // A varint of a number below 2^53 takes eight bytes.
  const bytes = Buffer.allocUnsafe(documents.length * 24);
  let at = 0;
  for (const { number, chunkCount, wordCount } of documents) {
    at = writeVarint(bytes, at, number);
    at = writeVarint(bytes, at, chunkCount);
    at = writeVarint(bytes, at, wordCount);
  }
  return Buffer.from(bytes.subarray(0, at));
}

export function readDocuments(bytes: Buffer): PartDocument[] {
  const documents: PartDocument[] = [];
  const cursor = { at: 0 };
  while (cursor.at < bytes.length) {
    documents.push({
      number: readVarint(bytes, cursor),
      chunkCount: readVarint(bytes, cursor),
      wordCount: readVarint(bytes, cursor),
    });
  }
  return documents;
}

/** One list after the other; numbers rise from one to the next. */
export function concatenate(lists: readonly PostingList[]): PostingList {
  if (lists.length === 1) return lists[0] as PostingList;
  const count = lists.reduce((total, { numbers }) => total + numbers.length, 0);
  const whole = { numbers: new Int32Array(count), frequencies: new Uint8Array(count), lengths: new Uint8Array(count) };
  let at = 0;
  for (const { numbers, frequencies, lengths } of lists) {
    whole.numbers.set(numbers, at);
    whole.frequencies.set(frequencies, at);
    whole.lengths.set(lengths, at);
    at += numbers.length;
  }
  return whole;
}
