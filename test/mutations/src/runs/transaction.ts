import type { Change } from '../../mutation.ts';

const TEST = 'test/runs/lost-connections.slow.test.ts';

export default [
  {
    name: 'transaction-fence',
    find: 'if (mark === undefined) return lose(',
    replace: 'if (false) return lose(',
    mechanism: 'ctx.transaction is held to its fence',
    test: 'test/runs/fences.test.ts',
    title: 'ctx.transaction throws before any effect, and aborts the run',
  },
  {
    name: 'own-tables',
    find: 'progress.returned = { value: await effects(asPlain(trx)) };',
    replace: 'progress.returned = { value: await effects(trx as never) };',
    mechanism: 'a handler’s table names are its own',
    test: 'test/db/own-schema.test.ts',
    title: 'are what it means by their names, also where ours have the same',
  },
  {
    name: 'checkpoint-again',
    find: 'if (!isTransient(err)) throw err; await pause(',
    replace: 'if (err) throw err; await pause(',
    mechanism: 'a checkpoint is tried again until Postgres answers',
    test: 'test/runs/refused-connections.test.ts',
    title: 'with %s, runs go on once',
  },
  {
    name: 'transaction-waits',
    find: 'if (!isTransient(cause)) throw cause;',
    replace: 'throw cause;',
    mechanism: 'a transaction that has not begun waits for Postgres',
    test: TEST,
    title: 'ctx.transaction, about to begin, waits, and is done once',
  },
  {
    name: 'transaction-others',
    find: 'if (!isConnectionLost(cause)) throw cause;',
    replace: '',
    mechanism: 'effects that fail by themselves do not run again',
    test: TEST,
    title: 'is that of another server inside a transaction, whose effects do not run again',
  },
  {
    name: 'transaction-hidden',
    find: 'thrown === undefined ? error : thrown.error',
    replace: 'error',
    mechanism: 'a rollback that fails hides no error of the effects',
    test: TEST,
    title: 'is an error of the effects, though the rollback after it finds the connection lost',
  },
  {
    name: 'transaction-asks',
    find: 'if (returned !== undefined && (await hasCommitted(host, mark, cause))) return returned.value;',
    replace: '',
    mechanism: 'effects whose COMMIT had no answer run again only where Postgres has not committed them',
    test: TEST,
    title: 'ctx.transaction, at its COMMIT, is done once: its effects run again only if it had none',
  },
  {
    name: 'transaction-repeats',
    find: 'if (repeats++ === MAX_REPEATS)',
    replace: 'if (repeats++ === 6)',
    mechanism: 'effects run again three times at most',
    test: TEST,
    title: 'in a transaction runs its effects four times, and is then interrupted',
  },
] satisfies readonly Change[];
