import { copy } from './copy.ts';
import { insert } from './insert.ts';
import { oncefleet, oncefleet16 } from './oncefleet.ts';
import { origin } from './origin.ts';
import { resumableStream } from './resumable-stream.ts';
import type { Subject, SubjectName } from './subject.ts';

export const subjects: Record<SubjectName, Subject> = {
  insert,
  origin,
  copy,
  'oncefleet-16': oncefleet16,
  oncefleet,
  'resumable-stream': resumableStream,
};
