import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { RedisTrouble } from '../support/redis-trouble.js';
import { untilSpooled } from '../support/spooled.js';
import { randomBytes, sha256, until } from '../support/temporary.js';

// Issue 4: a Redis that answers, but takes nothing more.
const BYTES = randomBytes(30_000);
const { length } = BYTES;

let world: RedisTrouble;
beforeEach(async () => {
  world = await RedisTrouble.open();
});
afterEach(() => world.close());

const TROUBLES: [string, { begin: string[]; end: string[]; says: RegExp }][] = [
  [
    'has no memory left',
    {
      begin: ['config', 'set', 'maxmemory', '1'],
      end: ['config', 'set', 'maxmemory', '0'],
      says: /^Redis at \S+ has no memory left: raise its `maxmemory`/,
    },
  ],
  [
    'became a read-only replica',
    {
      begin: ['replicaof', '127.0.0.1', '1'],
      end: ['replicaof', 'no', 'one'],
      says: /^Redis at \S+ is a read-only replica: give the address of the master/,
    },
  ],
];

test.each(TROUBLES)('a Redis that %s is away until that is over, and says why', async (_, { begin, end, says }) => {
  const idle = await world.upload('/idle', BYTES.subarray(0, 10_000));
  const upload = await world.upload('/running', Buffer.alloc(0));
  const running = await world.beginEnd(upload, 0, length);
  try {
    await running.send(BYTES.subarray(0, 10_000));
    await untilSpooled(world.proxy.data, upload.url, 10_000);
    await world.redis.cli(...begin);
    await running.send(BYTES.subarray(10_000));
    await untilSpooled(world.proxy.data, upload.url, length);
    const refused = await idle.append('x', { offset: 10_000, complete: false });
    expect([refused.status, refused.header('Retry-After')]).toEqual([503, expect.stringMatching(/^[1-9]\d*$/)]);
    await expect(world.upload('/new', Buffer.from('abc'))).rejects.toThrow('creation answered with 503');
    // In between it may have another try at the connection.
    const toldWhy = async (): Promise<boolean> => {
      const { status, problem = '' } = await world.readiness();
      expect(status).toBe(503);
      return says.test(problem);
    };
    await until(toldWhy, 'operators to be told why');
    expect((await world.send({ method: 'GET', target: '/other' })).status).toBe(200);
    expect(world.origin.requests.map(({ target }) => target)).toEqual(['/other']);

    await world.redis.cli(...end);
    expect((await running.readFinal()).status).toBe(200);
    await world.untilReady();
    expect(await idle.offset()).toBe(10_000);
    expect((await idle.finish(BYTES)).status).toBe(200);
    for (const target of ['/running', '/idle'])
      expect(world.origin.requests.filter((request) => request.target === target)).toMatchObject([
        { size: length, sha256: sha256(BYTES) },
      ]);
  } finally {
    await running.close();
  }
});
