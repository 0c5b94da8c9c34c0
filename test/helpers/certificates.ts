/** An authority of the tests' own, and certificates that it signed. Made by the openssl command. */
import { execFile } from 'node:child_process';
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { createTestFolder } from './services.ts';

const run = promisify(execFile);

export interface Certificate {
  certFile: string;
  keyFile: string;
}

export interface Authority {
  folder: string;
  caFile: string;
  /** @param name of the subject, which Postgres compares with the user's @param hosts as `IP:127.0.0.1` or `DNS:…` */
  sign(name: string, hosts?: string): Promise<Certificate>;
}

export async function createAuthority(): Promise<Authority> {
  const folder = await createTestFolder();
  const openssl = (...args: string[]) => run('openssl', args, { cwd: folder });
  const request = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
  await openssl(...request, '-subj', '/CN=authority of a test', '-keyout', 'ca.key', '-out', 'ca.pem');
  return {
    folder,
    caFile: join(folder, 'ca.pem'),
    async sign(name, hosts) {
      const [certFile, keyFile] = [`${name}.pem`, `${name}.key`] as const;
      const extensions = `${name}.ext`;
      await writeFile(join(folder, extensions), hosts === undefined ? '' : `subjectAltName=${hosts}\n`);
      const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', keyFile];
      await openssl('req', '-new', ...key, '-subj', `/CN=${name}`, '-out', `${name}.csr`);
      const signed = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2', '-extfile', extensions];
      await openssl('x509', '-req', '-in', `${name}.csr`, ...signed, '-out', certFile);
      await chmod(join(folder, keyFile), 0o600);
      return { certFile: join(folder, certFile), keyFile: join(folder, keyFile) };
    },
  };
}
