/** Tables of documents: collections, chunks, the search index, embeddings and uploads. */
import type { Generated, GeneratedAlways } from 'kysely';
import type { NullableTimestamp, Timestamp } from './column-types.ts';

export interface CollectionsTable {
  id: Generated<string>;
  tenant: string;
  name: string;
  /** Null: that of each document is detected. */
  language: string | null;
  /** When `language` was last changed. */
  language_since: NullableTimestamp;
  created_at: Timestamp;
}

export interface DocumentsTable {
  id: Generated<string>;
  collection_id: string;
  /** What the caller calls it, usually relative to the ingested root; unique in its collection. */
  path: string;
  title: string;
  /** SHA-256 of the content, hexadecimal. */
  content_hash: string;
  chunker_version: number;
  /** Of the code that took its chunks apart into terms; 0 where none has. */
  analyser_version: Generated<number>;
  language: Generated<string>;
  /** What the search index calls this version; another with each. */
  search_number: Generated<number>;
  byte_length: number;
  chunk_count: number;
  /** 1 when added, +1 on every change. */
  revision: Generated<number>;
  /** The job that wrote this revision. */
  job_id: string;
  updated_at: Timestamp;
}

export interface ChunksTable {
  document_id: string;
  ordinal: number;
  /** The title and the headings above it, outermost first, ` > ` between. */
  heading: string;
  content: string;
  /** Of the text of its document, in UTF-16 units, the end exclusive; null: written by an earlier build. */
  start_offset: number | null;
  end_offset: number | null;
  /** On which it begins, from 1; null where there are none. */
  page: number | null;
}

/** Some documents' posting lists; never changes. src/search knows what is in the bytes. */
export interface SearchPartsTable {
  id: GeneratedAlways<number>;
  collection_id: string;
  document_count: number;
  chunk_count: number;
  word_count: number;
  languages: string[];
  documents: Buffer;
}

export interface SearchBlocksTable {
  part_id: number;
  first_term: Buffer;
  place: number;
  last_term: Buffer;
  data: Buffer;
}

/** Versions of documents that are gone, and that a part still has. Triggers of `documents` write it. */
export interface SearchRemovalsTable {
  collection_id: string;
  search_number: number;
}

export interface EmbeddingModelsTable {
  id: GeneratedAlways<number>;
  name: string;
  dimensions: number;
}

/** Embeddings of consecutive chunks of a version of a document. src/search/vectors.ts knows what is in the bytes. */
export interface ChunkVectorsTable {
  document_id: string;
  model_id: number;
  search_number: number;
  first_ordinal: number;
  chunk_count: number;
  collection_id: string;
  hashes: Buffer;
  vectors: Buffer;
}

export interface EmbeddingTurnsTable {
  collection_id: string;
  job_id: string;
  taken_at: Timestamp;
}

export interface UploadsTable {
  id: string;
  tenant: string;
  path: string;
  content_type: string | null;
  byte_length: Generated<number>;
  sha256: string | null;
  job_id: string | null;
  created_at: Timestamp;
  touched_at: Timestamp;
}

export interface UploadPartsTable {
  upload_id: string;
  ordinal: number;
  bytes: Buffer;
}
