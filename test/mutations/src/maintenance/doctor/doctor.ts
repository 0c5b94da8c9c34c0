import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'doctor-repairs',
    find: 'await Promise.all(page.map((suspect) => repair(this.#runtime, this.#jobs, suspect, this.#options.signal)));',
    replace: '',
    mechanism: 'the doctor repairs what it finds when it is asked to',
    test: 'test/maintenance/doctor/doctor.test.ts',
    title: 'counts, names and repairs many, and tells how far it is',
  },
  {
    name: 'doctor-twice',
    find: 'const found = await this.#scan.confirm(suspects);',
    replace: 'const found = suspects;',
    mechanism: 'the doctor looks twice',
    test: 'test/maintenance/doctor/doctor.test.ts',
    title: 'raises no false alarm beside a fleet that works',
  },
  {
    name: 'doctor-pauses',
    find: 'const pauses = await comparePauses(runtime, differences, fix);',
    replace: 'const pauses: Diagnosis["findings"] = [];',
    mechanism: 'the doctor compares pauses',
    test: 'test/maintenance/doctor/doctor.test.ts',
    title: 'brings it in line when asked to',
  },
] satisfies readonly Change[];
