import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { defineConfig, type TestProjectInlineConfiguration } from 'vitest/config';

// Not src/index.ts: what it loads with `require` would be a second copy beside the one that tests import.
const entry = fileURLToPath(new URL('src/library.ts', import.meta.url));
const testing = fileURLToPath(new URL('src/testing/index.ts', import.meta.url));

/** Tests that last by the clock, or start and kill real processes and servers: `npm run test:slow`. */
const SLOW = 'test/**/*.slow.test.ts';

function suite(name: string, files: { include: string[]; exclude?: string[] }): TestProjectInlineConfiguration {
  return {
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
      name,
      ...files,
      environment: 'node',
      // Processes, not threads: tests send signals, block event loops and start worker threads.
      pool: 'forks',
      execArgv: ['--conditions=oncefleet-source'],
      // Limits are for what hangs: a test that passes only on a quick machine proves nothing.
      testTimeout: 120_000,
      hookTimeout: 120_000,
      expect: { poll: { timeout: 60_000 } },
      restoreMocks: true,
      unstubEnvs: true,
    },
  };
}

export default defineConfig({
  test: {
    globalSetup: ['test/global-setup.ts'],
    // Files mostly wait for servers and leases, so small machines run several at once as well.
    maxWorkers: Math.max(3, Math.min(4, availableParallelism())),
    teardownTimeout: 30_000,
    projects: [suite('fast', { include: ['test/**/*.test.ts'], exclude: [SLOW] }), suite('slow', { include: [SLOW] })],
  },
});
