/** `oncefleet/client`. */
export {
  type Client,
  ClientError,
  type ClientEvent,
  type ClientJob,
  type ClientOptions,
  createClient,
  type EnqueueOptions,
  type FollowOptions,
  type JobTypes,
} from './client.ts';
