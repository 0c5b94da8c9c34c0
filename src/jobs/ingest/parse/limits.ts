/** How much one document may cost. */

export interface DocumentLimits {
  /** Of the document as it comes, in bytes. */
  maxBytes: number;
  /** Of what a compressed document expands to, in bytes. */
  maxExpandedBytes: number;
  /** Of the text that is made of it, in UTF-16 units. */
  maxTextLength: number;
  maxPages: number;
  /** From when a thread begins to read it, in ms. */
  timeoutMs: number;
  /** Of the thread that reads it, heap and buffers, in MiB. */
  memoryMb: number;
}

export const DOCUMENT_LIMITS: Readonly<DocumentLimits> = {
  maxBytes: 64 * 1024 * 1024,
  maxExpandedBytes: 128 * 1024 * 1024,
  maxTextLength: 16 * 1024 * 1024,
  maxPages: 5_000,
  timeoutMs: 60_000,
  memoryMb: 512,
};
