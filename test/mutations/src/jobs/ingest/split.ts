/** Mutations of `src/jobs/ingest/split.ts`. */
import type { Change } from '../../../mutation.ts';

const test = 'test/jobs/ingest/broken-texts.test.ts';

export default [
  {
    name: 'split-contained-fence',
    find: 'parts.push(...fenceParts(text, fence)); fence = undefined;',
    replace: 'parts.push(...splitLines(text, fence, TARGET_CHUNK_LENGTH)); fence = undefined;',
    mechanism: 'code in a list item or a quote keeps its fence in every part',
    test,
    title: 'a block in a list item',
  },
  {
    name: 'split-wrapped',
    find: 'return prose >= lines.length * 0.7 && closed <= lines.length * 0.5 && hard < lines.length * 0.5;',
    replace: 'return true;',
    mechanism: 'what is no prose is cut between lines',
    test,
    title: 'a quote',
  },
] satisfies readonly Change[];
