/** What the routes of the console share. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { JobClient } from '../../client/client.ts';
import type { Config } from '../../config.ts';
import type { AuditEntry } from '../../db/audit-log.ts';
import { OncefleetError } from '../../errors.ts';
import type { Diagnosis } from '../../maintenance/doctor/diagnosis.ts';
import type { StreamRoutesOptions } from '../event-stream.ts';
import { jobNotFound, readJobId } from '../job-id.ts';
import type { Html } from './html.ts';
import { can, type Sessions, type Viewer } from './session.ts';

export interface ConsoleOptions extends StreamRoutesOptions {
  client: JobClient;
  config: Pick<Config, 'tokens' | 'adminToken' | 'tenant'> &
    Partial<Pick<Config, 'uploadLimitBytes' | 'uploadStoreBytes' | 'redactedFields'>>;
  board: boolean;
  stallMs: number;
  doctor: (() => Promise<Diagnosis>) | undefined;
}

/** What the pages share. */
export interface ConsoleContext extends ConsoleOptions {
  sessions: Sessions;
  /** A page around its content. */
  show(request: FastifyRequest, reply: FastifyReply, content: PageContent): FastifyReply;
}

interface PageContent {
  title: string;
  here?: 'jobs' | 'fleet' | 'playground';
  main: Html;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** The person that looks at a page of the console. */
    viewer: Viewer | undefined;
  }
}

/** A job that its viewer may see. @throws OncefleetError JOB_NOT_FOUND */
export async function findOwn(
  { client }: ConsoleContext,
  { params, viewer }: FastifyRequest,
): Promise<{ id: string; tenant: string }> {
  const id = readJobId((params as { id: string }).id);
  const tenant = await client.inspector.tenantOf(id, (viewer as Viewer).tenant);
  if (tenant === undefined) throw jobNotFound(id);
  return { id, tenant };
}

/** @throws OncefleetError SCOPE_MISSING */
export function requireScope({ viewer }: FastifyRequest, scope: 'admin' | 'enqueue'): void {
  if (!can(viewer as Viewer, scope))
    throw new OncefleetError('SCOPE_MISSING', `This needs a token with the scope ${scope}`);
}

export function entryOf(
  { viewer }: FastifyRequest,
  entry: Pick<AuditEntry, 'action' | 'jobId' | 'tenant' | 'details'>,
): AuditEntry {
  const { name, sessionId } = viewer as Viewer;
  return { ...entry, actor: name, sessionId };
}
/** What a query or a form says, by names; blanks count as nothing. */
export function fieldsOf(value: unknown): Record<string, string> {
  const fields = z
    .record(z.string(), z.unknown())
    .catch({})
    .parse(value ?? {});
  return Object.fromEntries(
    Object.entries(fields).flatMap(([name, text]) =>
      typeof text === 'string' && text.trim() !== '' ? [[name, text.trim()]] : [],
    ),
  );
}
