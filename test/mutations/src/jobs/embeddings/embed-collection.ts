import type { Change } from '../../../mutation.ts';

const test = 'test/jobs/embeddings/embeddings.test.ts';

export default [
  {
    name: 'embed-earlier',
    find: 'await deleteEarlierVectors(asOwn(trx), finished);',
    replace: '',
    mechanism: 'vectors of earlier versions go',
    test,
    title: 'are asked for once: not again unchanged, and of a changed document what has changed',
  },
  {
    name: 'embed-dimensions',
    find: 'if (model.dimensions === dimensions) return model;',
    replace: 'return model;',
    mechanism: 'vectors of another length are refused',
    test,
    title: 'vectors of another length than those that are stored',
  },
  {
    name: 'embed-turn',
    find: "if (turn !== 'taken') return turn === 'ours';",
    replace: "return turn !== 'gone';",
    mechanism: 'one job at a time embeds a collection',
    test: 'test/jobs/embeddings/fleet.test.ts',
    title: 'two ingests of one collection ask for each chunk once, and both have their vectors when they end',
  },
  {
    name: 'embed-model-complete',
    find: 'if ((await countChunksToEmbed(asOwn(ctx.db), collectionId, modelId)) > 0) return;',
    replace: 'if (modelId > 0) return;',
    mechanism: 'vectors of a model before go when those of the new one are complete',
    test,
    title: 'takes over when its vectors are complete; until then those of the first stay',
  },
] satisfies readonly Change[];
