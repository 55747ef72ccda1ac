import { silentLog } from '../../src/observe/log.js';
import { RedisConnection } from '../../src/store/redis/connection.js';
import type { RedisSettings } from '../../src/store/redis/errors.js';
import { RedisLeases } from '../../src/store/redis/leases.js';
import { RedisStore } from '../../src/store/redis/redis-store.js';
import { commitOf, told } from '../contract/lease-holder.js';

/** A process that takes a lease, says what it is told, and tries to commit all the same: it may be paused on the way. */

const [settings, id, leaseMs] = process.argv.slice(2) as [string, string, string];
const say = (line: object): void => console.log(JSON.stringify(line));

const connection = await RedisConnection.open(JSON.parse(settings) as RedisSettings, silentLog());
const leases = new RedisLeases(connection, { leaseMs: Number(leaseMs) });
const store = new RedisStore({ connection, node: '' });
const lease = await leases.take(id);
say({ token: lease.token });
say({ told: await told(lease) });
for (let committed: unknown; committed === undefined;) {
  committed = await store.commit(id, commitOf(lease, 3)).catch(() => undefined);
  if (committed !== undefined) say({ committed });
}
await lease.release();
leases.close();
await store.close();
await connection.close();
