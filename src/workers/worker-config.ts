import type { Config } from '../config/config.js';
import type { WorkerPlace } from './worker-place.js';

/** The configuration as one worker runs it: operators are the primary's, and sockets may be shared already. */
export function workerConfig(config: Config, { isLater }: WorkerPlace): Config {
  const listeners = config.listeners.map((listener) =>
    listener.address.kind === 'unix' && isLater
      ? { ...listener, address: { ...listener.address, isShared: true } }
      : listener,
  );
  return { ...config, admin: undefined, listeners };
}
