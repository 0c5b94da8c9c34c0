import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { configDefaults, defineConfig } from 'vitest/config';

// Not src/index.ts: what it loads with `require` would be a second copy beside the one that tests import.
const entry = fileURLToPath(new URL('src/library.ts', import.meta.url));
const testing = fileURLToPath(new URL('src/testing/index.ts', import.meta.url));

export default defineConfig({
  resolve: {
    // `import 'oncefleet'` means the source, in tests as for tsc and Node.
    conditions: ['oncefleet-source'],
    alias: [
      { find: /^oncefleet$/, replacement: entry },
      { find: /^.*\/src\/index\.ts$/, replacement: entry },
      { find: /^oncefleet\/testing$/, replacement: testing },
    ],
  },
  ssr: { resolve: { conditions: ['oncefleet-source'], externalConditions: ['oncefleet-source'] } },
  test: {
    include: ['test/**/*.test.ts'],
    // These install packages from the registry; they run when they are named.
    exclude: [
      ...configDefaults.exclude,
      ...(process.argv.some((arg) => arg.includes('.slow.')) ? [] : ['**/*.slow.test.ts']),
    ],
    globalSetup: ['test/global-setup.ts'],
    environment: 'node',
    // Processes, not threads: tests send signals, block event loops and start worker threads.
    pool: 'forks',
    execArgv: ['--conditions=oncefleet-source'],
    // Files mostly wait for servers and leases, so small machines run two at once as well.
    maxWorkers: Math.max(2, Math.min(4, availableParallelism())),
    testTimeout: 30_000,
    hookTimeout: 60_000,
    teardownTimeout: 30_000,
    restoreMocks: true,
    unstubEnvs: true,
  },
});
