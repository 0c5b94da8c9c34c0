import type { Change } from '../../mutation.ts';

const test = 'test/search/vectors.test.ts';

export default [
  {
    name: 'vectors-bounded',
    find: '(await measureVectors(db, collectionId, model.id)) <= maxBytes;',
    replace: 'maxBytes > 0;',
    mechanism: 'a question compares no more bytes of vectors than it may',
    test,
    title: 'in a collection whose vectors are too many, only what the words have found is put in order by meaning',
  },
  {
    name: 'vectors-model',
    find: 'findEmbeddingModel(db, vector.model)',
    replace: "findEmbeddingModel(db, 'm')",
    mechanism: 'vectors of two models are not compared',
    test,
    title: 'vectors of another model are compared with nothing',
  },
] satisfies readonly Change[];
