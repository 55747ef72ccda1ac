import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { untilSpooled } from '../support/disk.js';
import { RedisTrouble } from '../support/redis-trouble.js';
import { randomBytes, sha256, until } from '../support/temporary.js';

// Issue 4: a Redis that answers, but takes nothing more.
const BYTES = randomBytes(30_000);
const { length } = BYTES;

let setup: RedisTrouble;
beforeEach(async () => {
  setup = await RedisTrouble.open();
});
afterEach(() => setup.close());

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
  const idle = await setup.upload('/idle', BYTES.subarray(0, 10_000));
  const upload = await setup.upload('/running', Buffer.alloc(0));
  const running = await setup.beginEnd(upload, 0, length);
  try {
    await running.send(BYTES.subarray(0, 10_000));
    await untilSpooled(setup.proxy.data, upload.url, 10_000);
    await setup.redis.cli(...begin);
    await running.send(BYTES.subarray(10_000));
    await untilSpooled(setup.proxy.data, upload.url, length);
    const refused = await idle.append('x', { offset: 10_000, complete: false });
    expect([refused.status, refused.header('Retry-After')]).toEqual([503, expect.stringMatching(/^[1-9]\d*$/)]);
    await expect(setup.upload('/new', Buffer.from('abc'))).rejects.toThrow('creation answered with 503');
    // In between it may have another try at the connection.
    const toldWhy = async (): Promise<boolean> => {
      const { status, problem = '' } = await setup.readiness();
      expect(status).toBe(503);
      return says.test(problem);
    };
    await until(toldWhy, 'operators to be told why');
    expect((await setup.send({ method: 'GET', target: '/other' })).status).toBe(200);
    expect(setup.origin.requests.map(({ target }) => target)).toEqual(['/other']);

    await setup.redis.cli(...end);
    expect((await running.readFinal()).status).toBe(200);
    await setup.untilReady();
    expect(await idle.offset()).toBe(10_000);
    expect((await idle.finish(BYTES)).status).toBe(200);
    for (const target of ['/running', '/idle'])
      expect(setup.origin.requests.filter((request) => request.target === target)).toMatchObject([
        { size: length, sha256: sha256(BYTES) },
      ]);
  } finally {
    await running.close();
  }
});
