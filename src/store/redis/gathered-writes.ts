import { Cluster, type Redis } from 'ioredis';
import type { RedisClient } from './redis-clients.js';

/**
 * To be called before a command is given to the client: what is asked in one turn of the event loop travels together. With
 * many uploads at once the system calls for single commands were a fifth of all work.
 */
export function gatheredWrites(client: RedisClient): () => void {
  let isGathering = false;
  return () => {
    if (isGathering) return;
    isGathering = true;
    const streams = streamsOf(client);
    for (const stream of streams) stream.cork();
    setImmediate(() => {
      isGathering = false;
      for (const stream of streams) stream.uncork();
    });
  };
}

/** A server that is not connected has none. */
function streamsOf(client: RedisClient): Redis['stream'][] {
  const servers = client instanceof Cluster ? client.nodes() : [client];
  return servers.flatMap(({ stream }) => ((stream as typeof stream | undefined) ? [stream] : []));
}
