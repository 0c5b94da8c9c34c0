import type { Change } from '../../../mutation.ts';

const CONSOLE = 'test/http/console/console.test.ts';

export default [
  {
    name: 'session-settings',
    find: 'if (!holder.grantedHere && this.#grantOf(holder.grantedBy)?.tenant !== holder.tenant) return undefined;',
    replace: '',
    mechanism: 'a session ends when its token is no longer in the settings',
    test: CONSOLE,
    title: 'ends with its token, in Postgres or in the settings',
  },
  {
    name: 'session-throttle',
    find: 'this.#throttle(request, reply);',
    replace: '',
    mechanism: 'an address that sends wrong tokens is shut out for a while',
    test: CONSOLE,
    title: 'is not opened by a wrong token, and after some of them not at all for a while',
  },
  {
    name: 'session-cut-off',
    find: 'if ((await this.find(request)) === undefined) reply.raw.destroy();',
    replace: 'await this.find(request);',
    mechanism: 'a stream of the console ends with its session',
    test: 'test/http/console/sessions.test.ts',
    title: 'ends with %s',
  },
] satisfies readonly Change[];
