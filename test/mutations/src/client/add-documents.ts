import type { Change } from '../../mutation.ts';

const TEST = 'test/http/uploads.test.ts';

const KNOWN = 'test/client/add-documents.test.ts';

export default [
  {
    name: 'upload-known',
    find: 'if (earlier !== undefined) return earlier;',
    replace: '',
    mechanism: 'documents whose hashes are known are not read under a key that exists',
    test: KNOWN,
    title: 'are not read again under a key that exists, running or done',
  },
  {
    name: 'upload-not-there',
    find: "if (handle.outcome === 'created') throw new NotThere();",
    replace: '',
    mechanism: 'a job that was made to look for its key is taken back',
    test: KNOWN,
    title: 'leave no job behind where none exists and the documents do not come',
  },
  {
    name: 'upload-changed',
    find: 'expected !== undefined && expected !== sha256',
    replace: 'expected !== undefined && expected === ""',
    mechanism: 'bytes that are not those of the hash are refused',
    test: KNOWN,
    title: 'are refused, with their path, where other bytes come',
  },
  {
    name: 'upload-kept',
    find: "kept = handle.outcome === 'created';",
    replace: 'kept = true;',
    mechanism: 'documents of a job that was there before are stored once',
    test: TEST,
    title: 'the same documents are one job, whose uploads are stored once',
  },
  {
    name: 'upload-removed',
    find: 'if (!kept) await deleteUploads(db, begun).catch(() => undefined);',
    replace: '',
    mechanism: 'an upload that breaks off leaves nothing',
    test: TEST,
    title: 'a client that leaves in the middle: nothing stays',
  },
  {
    name: 'upload-key-same',
    find: 'upload: sha256,',
    replace: 'upload: sha256.slice(0, 32) + uuidV7().replaceAll("-", ""),',
    mechanism: 'the same documents make the same input',
    test: TEST,
    title: 'many at once are one job',
  },
  {
    name: 'upload-limit',
    find: 'if (room.left < 0) throw room.refusal();',
    replace: '',
    mechanism: 'an upload is bounded in bytes',
    test: TEST,
    title: '%s beyond the largest upload: 413, and nothing stays',
  },
  {
    name: 'upload-room',
    find: '{ left: free, refusal: () => uploadsFull(maxStoredBytes) },',
    replace: '',
    mechanism: 'what a tenant may have stored is bounded',
    test: TEST,
    title: 'more than a tenant may have stored: 429, until its jobs have ended',
  },
  {
    name: 'upload-attach',
    find: '(await attachUploads(asOwn(tx), ids, handle.id)) !== ids.length',
    replace: 'ids.length === 0',
    mechanism: 'the job gets its uploads with its row',
    test: TEST,
    title: 'of several files is one job',
  },
  {
    name: 'upload-tenant-room',
    find: 'ofTenant >= MAX_AT_ONCE_OF_TENANT',
    replace: 'false',
    mechanism: 'a tenant cannot take all places for uploads',
    test: TEST,
    title: 'more uploads at once than a tenant may have: 503, and others are served',
  },
] satisfies readonly Change[];
