import { type Bed, withCase } from '../lib/case.ts';
import { now } from '../lib/clock.ts';
import { ServerMeter } from '../lib/cpu.ts';
import { bytesOnDisk, settle } from '../lib/databases.ts';
import { STREAM_PROCESS, type StreamCommands } from '../streams/start.ts';
import type { Subject } from '../streams/subjects/subject.ts';

export interface Writing {
  events: number;
  eventsPerSecond: number;
  writerCpuMicrosPerEvent: number;
  /** Absent where nothing is published. */
  followerCpuMicrosPerEvent: number | undefined;
  redisCpuMicrosPerEvent: number;
  /** Absent for a Postgres that is not ours to look at. */
  postgresCpuMicrosPerEvent: number | undefined;
  walBytesPerEvent: number;
  diskBytesPerEvent: number;
}

/** Writes streams in one process while another follows them, if there is anything to follow. */
export async function measureWriting(
  bed: Bed,
  subject: Subject,
  options: { streams: number; perStream: number; warmUpPerStream: number; profile: string | undefined },
): Promise<Writing> {
  const { streams, perStream, warmUpPerStream, profile } = options;
  return withCase(bed, subject.template, async ({ place, start }) => {
    const writer = start<StreamCommands>(STREAM_PROCESS);
    const follower = subject.read === undefined ? undefined : start<StreamCommands>(STREAM_PROCESS);
    await writer.call('openWriter', { subject: subject.name, place });
    await follower?.call('openReader', { subject: subject.name, place });

    const open = async () => {
      const streamIds = await writer.call('openStreams', streams);
      await follower?.call('follow', streamIds);
    };
    const write = async (count: number) => {
      await Promise.all([writer.call('write', count), follower?.call('received', count)]);
    };
    await open();
    await write(warmUpPerStream);

    await open();
    await settle(place.databaseUrl);
    const servers = await ServerMeter.start(bed.services, place);
    try {
      await writer.call('meter', { profile: profile && `${profile}-writer.cpuprofile` });
      await follower?.call('meter', { profile: profile && `${profile}-follower.cpuprofile` });
      const begun = now();
      await write(perStream);
      const elapsedMs = now() - begun;
      const byWriter = await writer.call('used', null);
      const byFollower = await follower?.call('used', null);
      const byServers = await servers.read();
      await writer.call('close', null);
      await follower?.call('close', null);

      const events = streams * perStream;
      const micros = (ms: number) => (ms * 1_000) / events;
      return {
        events,
        eventsPerSecond: (events * 1_000) / elapsedMs,
        writerCpuMicrosPerEvent: micros(byWriter.cpuMs),
        followerCpuMicrosPerEvent: byFollower && micros(byFollower.cpuMs),
        redisCpuMicrosPerEvent: micros(byServers.redisCpuMs),
        postgresCpuMicrosPerEvent: byServers.postgresCpuMs === undefined ? undefined : micros(byServers.postgresCpuMs),
        walBytesPerEvent: byServers.walBytes / events,
        diskBytesPerEvent:
          (await bytesOnDisk(place.databaseUrl, subject.tables)) / (events + streams * warmUpPerStream),
      };
    } finally {
      servers.close();
    }
  });
}
