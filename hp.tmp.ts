// harness: N jobs at concurrency C in this process; prints rates and CPU
import { z } from 'zod';
import pg from 'pg';
import { Redis } from 'ioredis';
import { Queue } from 'bullmq';
import { readFileSync } from 'node:fs';
const root = process.env.ROOT ?? '/tmp/w/perf';
const { createFleet, defineJob, migrate } = await import(`${root}/src/index.ts`);
const { createDb } = await import(`${root}/src/db/client.ts`);
const N = Number(process.env.N ?? 10000), C = Number(process.env.C ?? 100);
const admin = new pg.Client(process.env.DATABASE_URL); await admin.connect();
const name = 'h_' + process.pid;
await admin.query(`create database ${name}`);
const url = new URL(process.env.DATABASE_URL!); url.pathname = '/' + name;
const db = createDb({ url: url.href, maxConnections: 1, applicationName: 'h', onError() {} });
await migrate(db.kysely); await db.close();
const redis = new Redis(process.env.REDIS_URL!);
let ran = 0;
const noop = defineJob({ name: 'noop', input: z.object({ n: z.number() }), run: () => { ran++; } });
const fleet = createFleet({ databaseUrl: url.href, redisUrl: process.env.REDIS_URL!, prefix: name, jobs: [noop] });
if (process.env.SQL) for (const part of process.env.SQL.split(';')) { const c = new pg.Client(url.href); await c.connect(); await c.query(part); await c.end(); }
const RAW = process.env.MODE === 'raw';
const q = new Queue('noop', { connection: redis as any, prefix: name });
const cpuRedis = async () => { const i = await redis.info('cpu'); return (Number(/used_cpu_sys:(\S+)/.exec(i)![1]) + Number(/used_cpu_user:(\S+)/.exec(i)![1])) * 1e6; };
const pgpid = process.env.PG_PID;
import { readdirSync } from 'node:fs';
const stat = (pid: string) => { try { const f = readFileSync(`/proc/${pid}/stat`, 'utf8'); const a = f.slice(f.lastIndexOf(')') + 2).split(' '); return { ppid: a[1], t: Number(a[11]) + Number(a[12]) + Number(a[13]) + Number(a[14]) }; } catch { return { ppid: '', t: 0 }; } };
const cpuPg = () => { let t = stat(pgpid!).t; for (const p of readdirSync('/proc')) if (/^\d+$/.test(p)) { const s = stat(p); if (s.ppid === pgpid) t += s.t; } return t * 10000; };
const wal = async () => Number((await admin.query('select pg_wal_lsn_diff(pg_current_wal_lsn(), $$0/0$$) as w')).rows[0].w);
async function round(first: number, n: number, print: boolean) {
  await q.pause();
  if (RAW) for (let d = 0; d < n; d += 1000) await q.addBulk(Array.from({ length: Math.min(1000, n - d) }, (_, i) => ({ name: 'noop', data: { n: first + d + i } })));
  else for (let d = 0; d < n; d += 1000) await Promise.all(Array.from({ length: Math.min(1000, n - d) }, (_, i) => fleet.enqueue('noop', { n: first + d + i }, { key: 'k' + (first + d + i) })));
  await admin.query('checkpoint');
  await new Promise((r) => setTimeout(r, 300));
  if (process.env.STATS) await redis.config('RESETSTAT'); const rw = async () => { const i = await redis.info('stats'); return [Number(/total_reads_processed:(\d+)/.exec(i)![1]), Number(/total_writes_processed:(\d+)/.exec(i)![1])]; }; const rw0 = await rw();
  (globalThis as any).__counts && Object.keys((globalThis as any).__counts).forEach((k) => delete (globalThis as any).__counts[k]);
  const goal = ran + n; const r0 = await cpuRedis(), p0 = cpuPg(), w0 = await wal(), c0 = process.cpuUsage(), m0 = (process as any).threadCpuUsage(), t0 = performance.now();
  let ses: any; if (process.env.PROF && print) { const { Session } = await import('node:inspector/promises'); ses = new Session(); ses.connect(); await ses.post('Profiler.enable'); await ses.post('Profiler.setSamplingInterval', { interval: 200 }); await ses.post('Profiler.start'); }
  await q.resume();
  for (;;) { await new Promise((r) => setTimeout(r, 20)); if (ran >= goal) { const c = await q.getJobCounts('active', 'waiting'); if (c.active! + c.waiting! === 0) break; } }
  const ms = performance.now() - t0; if (ses) { const { profile } = await ses.post('Profiler.stop'); (await import('node:fs')).writeFileSync(process.env.PROF!, JSON.stringify(profile)); ses.disconnect(); } const c = process.cpuUsage(c0), m = (process as any).threadCpuUsage(m0);
  if (process.env.STATS) { const b = await rw(); console.error(`redis reads ${((b[0]! - rw0[0]!) / n).toFixed(3)} writes ${((b[1]! - rw0[1]!) / n).toFixed(3)} per job`); }
  if (process.env.STATS === '2') console.error((await redis.info('commandstats')).split('\n').filter((l) => /calls=\d{3}/.test(l)).map((l) => { const m = /cmdstat_([^:]+):calls=(\d+),usec=(\d+)/.exec(l)!; return `${m[1]} ${(Number(m[2]) / n).toFixed(2)}/job ${(Number(m[3]) / n).toFixed(2)}us/job`; }).join('\n'));
  if (process.env.STATS) console.error(JSON.stringify(Object.fromEntries(Object.entries((globalThis as any).__counts ?? {}).map(([k, v]: any) => [k.slice(0, 30), (v[1] / v[0]).toFixed(1)]))));
  if (print) console.log(`${(n / ms * 1000).toFixed(0)} jobs/s  worker ${((c.user + c.system) / n).toFixed(1)} main ${((m.user + m.system) / n).toFixed(1)} redis ${((await cpuRedis() - r0) / n).toFixed(1)} pg ${((cpuPg() - p0) / n).toFixed(1)} wal ${((await wal() - w0) / n).toFixed(0)}`);
}
await redis.ping();
let worker: any;
if (RAW) { const { Worker } = await import('bullmq'); worker = new Worker('noop', async () => { ran++; }, { connection: { ...(redis.options as any), maxRetriesPerRequest: null }, prefix: name, concurrency: C }); await worker.waitUntilReady(); } else worker = await fleet.work({ concurrency: C });
await round(0, Math.min(3000, N), false);
let at = 3000;
process.stdout.write('ready\n');
for await (const _ of (await import('node:readline')).createInterface({ input: process.stdin })) { await round(at, N, true); at += N; }
(globalThis as any).__report?.();
if (RAW) await worker.close(); await fleet.close(); await q.close(); redis.disconnect();
await admin.query(`drop database ${name} with (force)`); await admin.end();
