/** Job definitions from users' modules. */
import { stat } from 'node:fs/promises';
// All of it: Node before 22.15 has no `registerHooks`, and an import by that name would fail there.
import * as nodeModule from 'node:module';
import { isAbsolute, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { InputInvalidError, type Issue } from '../errors.ts';
import type { AnyJobDefinition } from '../jobs/define-job.ts';

/** How a job module names this package. */
const PACKAGE_NAME = 'oncefleet';

export interface LoadJobsOptions {
  /** What relative paths start from, and packages are looked up from. */
  cwd: string;
  /** Definitions already there; their names are taken. */
  builtin: readonly AnyJobDefinition[];
}

/**
 * Imports every module and gathers the definitions it exports: named, as default, or in
 * arrays. The same definition exported twice counts once.
 *
 * @returns the built-in definitions and those found
 * @throws InputInvalidError CONFIG_INVALID, one issue for each module or name at fault
 */
export async function loadJobs(
  modules: readonly string[],
  { cwd, builtin }: LoadJobsOptions,
): Promise<AnyJobDefinition[]> {
  const issues: Issue[] = [];
  const found = new Map<AnyJobDefinition, string>(builtin.map((job) => [job, 'a built-in job']));
  for (const module of new Set(modules)) {
    try {
      const definitions = definitionsIn(await importModule(module, cwd));
      if (definitions.size === 0) issues.push({ path: module, message: 'exports no job definition (see defineJob)' });
      for (const definition of definitions) if (!found.has(definition)) found.set(definition, module);
    } catch (error) {
      issues.push({
        path: module,
        message: error instanceof ModuleMissingError ? error.message : `failed to load: ${describe(error)}`,
      });
    }
  }
  const owners = new Map<string, string>();
  for (const [{ name }, owner] of found) {
    const other = owners.get(name);
    if (other !== undefined)
      issues.push({ path: owner, message: `defines job "${name}", a name that ${other} has taken` });
    else owners.set(name, owner);
  }
  if (issues.length > 0) throw new InputInvalidError('Job modules', issues, 'CONFIG_INVALID');
  return [...found.keys()];
}

class ModuleMissingError extends Error {}

async function importModule(module: string, cwd: string): Promise<Record<string, unknown>> {
  resolveOwnPackage();
  return (await import(await locate(module, cwd))) as Record<string, unknown>;
}

/** A file first, as `./jobs.ts` or `jobs.ts`; else a package that `cwd` can see. */
async function locate(module: string, cwd: string): Promise<string> {
  const file = resolve(cwd, module);
  const stats = await stat(file).catch(() => undefined);
  if (stats?.isFile()) return pathToFileURL(file).href;
  if (stats?.isDirectory()) throw new ModuleMissingError('is a folder; name the module file in it');
  if (!module.startsWith('.') && !isAbsolute(module)) {
    try {
      return pathToFileURL(nodeModule.createRequire(join(cwd, 'jobs.js')).resolve(module)).href;
    } catch {
      throw new ModuleMissingError('is neither a file nor an installed package');
    }
  }
  throw new ModuleMissingError('does not exist');
}

let ownPackageResolved = false;

/**
 * Lets a module anywhere import this package and get this very copy of it, whether the
 * CLI runs from source or from a build, and whether the module has it installed or not. A
 * second copy would have error classes that `instanceof` here does not know.
 */
function resolveOwnPackage(): void {
  // Absent before Node 22.15: the package is then found as any other is.
  if (ownPackageResolved || typeof nodeModule.registerHooks !== 'function') return;
  ownPackageResolved = true;
  const own = new URL(import.meta.url.endsWith('.ts') ? '../index.ts' : '../index.js', import.meta.url).href;
  nodeModule.registerHooks({
    resolve: (specifier, context, next) =>
      specifier === PACKAGE_NAME ? { url: own, shortCircuit: true } : next(specifier, context),
  });
}

function definitionsIn(exports: Record<string, unknown>): Set<AnyJobDefinition> {
  const definitions = new Set<AnyJobDefinition>();
  for (const value of Object.values(exports).flat()) if (isJobDefinition(value)) definitions.add(value);
  return definitions;
}

/** By shape: a definition made by another copy of the package is as good. */
function isJobDefinition(value: unknown): value is AnyJobDefinition {
  if (typeof value !== 'object' || value === null) return false;
  const { name, queue, run, input, policy } = value as Record<string, unknown>;
  return (
    typeof name === 'string' &&
    typeof queue === 'string' &&
    typeof run === 'function' &&
    typeof policy === 'object' &&
    typeof (input as { safeParse?: unknown } | undefined)?.safeParse === 'function'
  );
}

function describe(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}
