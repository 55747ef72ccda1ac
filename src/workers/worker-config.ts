import type { Config } from '../config/config.js';
import { mostConnections } from '../http/connection-limits.js';
import type { WorkerPlace } from './worker-place.js';

/**
 * The configuration as one worker runs it: operators are the primary's, and so are the limits of connections but for the
 * descriptors of this process; sockets may be shared already.
 */
export function workerConfig(config: Config, { isLater }: WorkerPlace): Config {
  const listeners = config.listeners.map((listener) =>
    listener.address.kind === 'unix' && isLater
      ? { ...listener, address: { ...listener.address, isShared: true } }
      : listener,
  );
  return { ...config, admin: undefined, listeners, connections: ownShare() };
}

function ownShare(): Config['connections'] {
  const total = mostConnections();
  return { total, perAddress: total };
}
