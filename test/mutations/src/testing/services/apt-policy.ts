import type { Change } from '../../../mutation.ts';

const test = 'test/bootstrap/apt-policy.test.ts';

export default [
  {
    name: 'apt-policy-watchdog',
    find: '  watchdog.unlink(path, text);\n',
    replace: '',
    mechanism: 'the policy goes with the process that made it',
    test,
    title: 'goes when its maker is ended by %s',
  },
  {
    name: 'apt-policy-own',
    find: 'if (pid === undefined || isAlive(Number(pid))) return;',
    replace: 'if (isAlive(Number(pid))) return;',
    mechanism: "nobody else's policy is removed",
    test,
    title: 'of a run that still works, of somebody else, or behind a link, is not removed',
  },
] satisfies readonly Change[];
