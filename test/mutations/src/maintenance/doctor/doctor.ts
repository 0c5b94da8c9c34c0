import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'doctor-repairs',
    find: 'await Promise.all(found.slice(i, i + REPAIRED_AT_ONCE).map((suspect) => this.#repair(suspect)));',
    replace: '',
    mechanism: 'the doctor repairs what it finds when it is asked to',
    test: 'test/maintenance/doctor.test.ts',
    title: 'counts, names and repairs many, and tells how far it is',
  },
  {
    name: 'doctor-twice',
    find: 'const found = await this.#lookAgain(suspects);',
    replace: 'const found = suspects;',
    mechanism: 'the doctor looks twice',
    test: 'test/maintenance/doctor.test.ts',
    title: 'raises no false alarm beside a fleet that works',
  },
  {
    name: 'doctor-cluster-nodes',
    find: `redis instanceof Cluster ? redis.nodes('master') : [redis]`,
    replace: `redis instanceof Cluster ? redis.nodes('master').slice(0, 1) : [redis]`,
    mechanism: 'the doctor asks every node of a Cluster',
    test: 'test/journal/cluster.slow.test.ts',
    title: 'the doctor finds a queue that nobody registers any more, on whichever node it is',
  },
  {
    name: 'doctor-pauses',
    find: 'const pauses = await this.#comparePauses(differences);',
    replace: 'const pauses: Finding[] = [];',
    mechanism: 'the doctor compares pauses',
    test: 'test/maintenance/doctor.test.ts',
    title: 'brings it in line when asked to',
  },
] satisfies readonly Change[];
