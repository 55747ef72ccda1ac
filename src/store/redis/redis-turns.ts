import type { RedisConnection } from './redis-connection.js';

/**
 * Gives one process of all the turn to do what need not be done by everyone, and to nobody else until the time is over.
 * Only saves work: what is done in a turn must stand being done twice.
 */
export async function takeTurn(connection: RedisConnection, name: string, forMs: number): Promise<boolean> {
  const key = connection.keys.turn(name);
  return (await connection.call(key, (client) => client.set(key, '1', 'PX', forMs, 'NX'))) === 'OK';
}
