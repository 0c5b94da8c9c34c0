/** Parsers of others, loaded when the first document comes that needs them. */
import { requirePackages } from '../../../optional.ts';

/** @throws OncefleetError SERVICE_MISSING it is not installed; the message has the command that installs it */
export async function loadPackage<T>(name: string, load: () => Promise<T>): Promise<T> {
  requirePackages('Reading this document', [name]);
  return await load();
}
