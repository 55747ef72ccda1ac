import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { OpenRequest } from '../support/client.js';
import { untilSpooled } from '../support/disk.js';
import { RedisTrouble } from '../support/redis-trouble.js';
import { randomBytes, sha256, until } from '../support/temporary.js';

// Issue 4: Redis is lost while the proxy runs.
const BYTES = randomBytes(60_000);
const { length } = BYTES;

interface Way {
  begin(setup: RedisTrouble): unknown;
  end(setup: RedisTrouble): unknown;
  readonly says: RegExp;
}

const WAYS: Record<string, Way> = {
  'is killed': {
    begin: ({ redis }) => redis.kill(),
    end: ({ redis }) => redis.restart(),
    says: /^Redis at \S+ (does not answer|closes the connection|is not connected)/,
  },
  'stands still': {
    begin: ({ redis }) => redis.pause(),
    end: ({ redis }) => redis.resume(),
    says: /^Redis at \S+ does not answer in time/,
  },
  'cannot be heard through its network': {
    begin: ({ network }) => network.hang(),
    end: ({ network }) => network.restore(),
    says: /^Redis at \S+ does not answer in time/,
  },
  'is cut off': {
    begin: ({ network }) => network.cut(),
    end: ({ network }) => network.restore(),
    says: /^Redis at \S+ (does not answer|closes the connection|is not connected)/,
  },
};

let trouble: RedisTrouble;
let opened: OpenRequest[];
let answerNow: () => void;

beforeEach(async () => {
  opened = [];
  trouble = await RedisTrouble.open();
  const after = new Promise<void>((resolve) => (answerNow = resolve));
  trouble.origin.answerWith(({ target }) => (target === '/held' ? { status: 200, body: 'held', after } : {}));
});
afterEach(async () => {
  answerNow();
  await Promise.all(opened.map((request) => request.close()));
  await trouble.close();
});

/** The last append of a new upload, of which so many bytes are sent and on the disk. */
async function feed(target: string, count: number): Promise<{ request: OpenRequest; url: string }> {
  const upload = await trouble.upload(target, Buffer.alloc(0));
  const request = await trouble.beginEnd(upload, 0, length);
  opened.push(request);
  await request.send(BYTES.subarray(0, count));
  await untilSpooled(trouble.proxy.data, upload.url, count);
  return { request, url: upload.url };
}

/** Whether it has been answered yet, and what. */
function watch(request: OpenRequest) {
  const watched = { isAnswered: false, answer: request.readFinal() };
  watched.answer.then(
    () => (watched.isAnswered = true),
    () => (watched.isAnswered = true),
  );
  return watched;
}

const atOrigin = (target: string) => trouble.origin.requests.filter((request) => request.target === target);

describe.each(Object.entries(WAYS))('while Redis %s', (_, way) => {
  test('new requests are told to come again within a second, and others pass', async () => {
    const upload = await trouble.upload('/idle', BYTES.subarray(0, 10_000));
    const before = trouble.proxy.log.length;
    await way.begin(trouble);
    let seconds = Infinity;
    // Only a machine that stands still itself may need another try.
    await until(
      async () => {
        const startedAt = performance.now();
        const refused = await upload.retrieve();
        seconds = (performance.now() - startedAt) / 1000;
        expect([refused.status, refused.header('Retry-After')]).toEqual([503, expect.stringMatching(/^[1-9]\d*$/)]);
        return seconds < 1;
      },
      () => `an answer within a second (${seconds})`,
    );
    await expect(trouble.upload('/new', Buffer.from('abc'))).rejects.toThrow('creation answered with 503');
    expect((await upload.append('x', { offset: 10_000, complete: false })).status).toBe(503);
    expect((await upload.cancel()).status).toBe(503);
    const { status, problem } = await trouble.readiness();
    expect([status, problem]).toEqual([503, expect.stringMatching(way.says)]);
    const other = await trouble.send({ method: 'GET', target: '/other' });
    expect([other.status, other.body.toString()]).toEqual([200, 'ok']);
    await way.end(trouble);
    await trouble.untilReady();
    await expectFewLines(before);
    expect(await upload.offset()).toBe(10_000);
    expect((await upload.finish(BYTES)).status).toBe(200);
    expect(atOrigin('/idle')).toMatchObject([{ sha256: sha256(BYTES) }]);
    expect(atOrigin('/new')).toEqual([]);
  });

  test('receives keep writing and deliveries pause; when it is back both end, once', async () => {
    const receive = await feed('/receive', 20_000);
    const ending = await feed('/ending', 20_000);
    const held = await feed('/held', length);
    await trouble.origin.waitForRequests(1);
    const before = trouble.proxy.log.length;

    await way.begin(trouble);
    await receive.request.send(BYTES.subarray(20_000, 40_000));
    await ending.request.send(BYTES.subarray(20_000));
    await untilSpooled(trouble.proxy.data, receive.url, 40_000);
    await untilSpooled(trouble.proxy.data, ending.url, length);
    const clients = [ending, held].map(({ request }) => watch(request));
    answerNow();
    await until(() => atOrigin('/held')[0]!.finished, 'the answer of the origin');
    const asked = await trouble.figure('rufh_store_unavailable_total');
    await until(
      async () => (await trouble.figure('rufh_store_unavailable_total')) > asked + 2,
      'Redis to be asked in vain',
      20_000,
    );
    expect(clients.map(({ isAnswered }) => isAnswered)).toEqual([false, false]);
    expect(atOrigin('/ending')).toEqual([]);

    await way.end(trouble);
    await receive.request.send(BYTES.subarray(40_000));
    const answers = await Promise.all([receive.request.readFinal(), ...clients.map(({ answer }) => answer)]);
    expect(answers.map(({ status, body }) => `${status} ${body.toString()}`)).toEqual(['200 ok', '200 ok', '200 held']);
    for (const target of ['/receive', '/ending', '/held'])
      expect(atOrigin(target)).toMatchObject([{ size: length, sha256: sha256(BYTES) }]);
    expect(trouble.proxy.running).toBe(true);
    await trouble.untilReady();
    await expectFewLines(before);
  });
});

/** Trouble is told when it begins and when it is over, not with every step that failed. */
async function expectFewLines(from: number): Promise<void> {
  const isOver = () => trouble.proxy.log.slice(from).some(({ msg }) => /^Redis is available again/.test(String(msg)));
  // What it says of itself may come sooner than what it has written.
  await until(isOver, 'the log to say that it is over');
  const lines = trouble.proxy.log.slice(from).map(({ msg }) => String(msg));
  expect(lines.filter((line) => /^Redis is not available/.test(line))).toHaveLength(1);
  expect(lines.filter((line) => /^Redis is available again/.test(line))).toHaveLength(1);
  // What is said of each request that came meanwhile is as long as ever.
  expect(lines.filter((line) => !/^(request$|Redis is )/.test(line)).length).toBeLessThan(10);
}
