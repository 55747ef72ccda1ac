import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { bodyOf, DeliveryHarness, type DeliveryHarnessOptions } from '../support/delivery-harness.js';
import { answerOk, type RawExchange, type RawOrigin, type RawScript, startRawOrigin } from '../support/raw-origin.js';
import { randomBytes, serverPort, sha256, until } from '../support/temporary.js';

let origin: RawOrigin;
let harness: DeliveryHarness | undefined;

beforeEach(async () => {
  origin = await startRawOrigin();
});

afterEach(async () => {
  await harness?.close();
  harness = undefined;
  await origin.close();
});

async function open(options: DeliveryHarnessOptions = {}, url = origin.url): Promise<DeliveryHarness> {
  return (harness = await DeliveryHarness.open(url, options));
}

const LARGE = randomBytes(8 * 1024 * 1024);

/** Ways in which an origin can fail after it was reached. */
const failures: readonly { name: string; stalls?: true; script: RawScript; problem: RegExp }[] = [
  { name: 'closes after the head', script: ({ socket }) => void socket.end(), problem: /other side closed/ },
  { name: 'resets after the head', script: (exchange) => exchange.reset(), problem: /reset|closed/i },
  {
    name: 'resets within the body',
    script: async (exchange) => {
      await exchange.readBytes(1_000_000);
      exchange.reset();
    },
    problem: /reset|closed/i,
  },
  {
    name: 'closes instead of answering',
    script: async (exchange) => {
      await exchange.readBody();
      exchange.end();
    },
    problem: /other side closed/,
  },
  {
    name: 'never answers',
    stalls: true,
    script: async (exchange) => {
      await exchange.readBody();
    },
    problem: /Timeout/,
  },
  { name: 'stops reading', stalls: true, script: () => undefined, problem: /Timeout/ },
  {
    name: 'answers with garbage',
    script: async (exchange) => {
      await exchange.readBody();
      await exchange.write('this is no HTTP at all\r\n\r\n');
    },
    problem: /HTTP/,
  },
  { name: 'breaks off within the head of its answer', script: cut('HTTP/1.1 201 Crea'), problem: /closed/ },
  {
    name: 'breaks off within its answer',
    script: cut('HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\nhal'),
    problem: /the answer \(201\) broke off/,
  },
  {
    name: 'breaks off within a chunked answer',
    script: cut('HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n'),
    problem: /the answer \(201\) broke off/,
  },
  {
    name: 'stalls within its answer',
    stalls: true,
    script: async (exchange) => {
      await exchange.readBody();
      await exchange.write('HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\nhal');
    },
    problem: /the answer \(201\) broke off: .*Timeout/,
  },
];

function cut(text: string): RawScript {
  return async (exchange) => {
    await exchange.readBody();
    await exchange.write(text);
    exchange.end();
  };
}

/** The failure first, and from then on good answers. */
function failingOnce(script: RawScript): RawScript {
  return (exchange: RawExchange) => (exchange.index === 0 ? script(exchange) : answerOk(exchange));
}

describe.each(failures)('an origin that $name', ({ stalls, script, problem }) => {
  // Only stalling is to be cut short, and that not so soon that a busy machine looks like it.
  const rules = { timeoutMs: stalls ? 1500 : 30_000 };

  test('gets a POST once: the upload is kept, undelivered, until the client asks again', async () => {
    origin.setScript(failingOnce(script));
    const harness = await open({ rules });
    const upload = await harness.whole({ body: LARGE });
    const answered = await harness.result(upload.id);
    if (answered.kind === 'answered') await expect(bodyOf(answered.answer)).rejects.toThrow();
    const result = answered.kind === 'answered' ? await harness.result(upload.id) : answered;
    expect(result).toMatchObject({ kind: 'undelivered', failure: { reason: 'outcome-unknown' } });
    const { phase, attempts, undelivered } = await harness.upload(upload.id);
    expect(phase).toBe('undelivered');
    expect(attempts).toMatchObject([{ number: 1, reached: 'sent', origin: origin.url }]);
    expect(undelivered?.problem).toMatch(problem);
    expect(attempts[0]!.endedAt).toBeGreaterThanOrEqual(attempts[0]!.startedAt);
    expect(origin.exchanges).toHaveLength(1);

    expect(await bodyOf(await harness.answer(upload.id))).toEqual(Buffer.from('ok'));
    expect(origin.exchanges).toHaveLength(2);
    expect(origin.exchanges[1]!.body.sha256).toBe(sha256(LARGE));
    expect((await harness.upload(upload.id)).attempts[1]).toMatchObject({ budgetFrom: 2, reached: 'answered' });
  });

  test('gets a PUT again by itself, with the same key', async () => {
    origin.setScript(failingOnce(script));
    const harness = await open({ rules });
    const upload = await harness.whole({ body: LARGE, request: { method: 'PUT' } });
    const first = await harness.result(upload.id);
    if (first.kind === 'answered') await bodyOf(first.answer).catch(() => undefined);
    expect(await bodyOf(await harness.answer(upload.id))).toEqual(Buffer.from('ok'));
    expect(origin.exchanges.map((exchange) => exchange.header('idempotency-key'))).toEqual([
      upload.deliveryKey,
      upload.deliveryKey,
    ]);
    expect((await harness.upload(upload.id)).attempts.map(({ reached }) => reached)).toEqual(['sent', 'answered']);
  });
});

test('a POST is sent again by itself where the route says that the origin honours the key', async () => {
  origin.setScript(failingOnce((exchange) => exchange.reset()));
  const harness = await open({ rules: { guarantee: 'at_least_once' } });
  const upload = await harness.whole({ body: LARGE });
  expect((await harness.answer(upload.id)).status).toBe(200);
  expect(origin.exchanges).toHaveLength(2);
});

test('an origin that is not there is tried again within the budget, then the upload waits for its client', async () => {
  const harness = await open({}, `http://127.0.0.1:${await serverPort()}`);
  const upload = await harness.whole();
  const result = await harness.result(upload.id);
  expect(result).toMatchObject({ kind: 'undelivered', failure: { reason: 'unreachable' }, retryAfterSeconds: 1 });
  const { attempts, phase } = await harness.upload(upload.id);
  expect(phase).toBe('undelivered');
  expect(attempts.map(({ reached }) => reached)).toEqual(['never-sent', 'never-sent', 'never-sent']);
  expect(attempts[0]!.problem).toMatch(/ECONNREFUSED/);
  await harness.result(upload.id);
  expect((await harness.upload(upload.id)).attempts.map(({ budgetFrom }) => budgetFrom)).toEqual([1, 1, 1, 4, 4, 4]);
});

test('an origin that comes back in time gets the upload within the same wait', async () => {
  const port = await serverPort();
  const harness = await open({ retry: { maxAttempts: 1000 } }, `http://127.0.0.1:${port}`);
  const upload = await harness.whole();
  const waiting = harness.answer(upload.id);
  await until(async () => (await harness.upload(upload.id)).attemptCount > 1, 'a second attempt');
  const late = await startRawOriginAt(port);
  expect((await waiting).status).toBe(200);
  expect(late.exchanges).toHaveLength(1);
  await late.close();
});

test('a status of retry_on is a failure to be repeated: 503, then 200', async () => {
  origin.setScript(failingOnce((exchange) => exchange.respond({ status: 503, body: 'bad' })));
  const harness = await open();
  const upload = await harness.whole({ body: LARGE });
  expect(await bodyOf(await harness.answer(upload.id))).toEqual(Buffer.from('ok'));
  expect((await harness.upload(upload.id)).attempts).toMatchObject([
    { reached: 'answered', status: 503 },
    { reached: 'answered', status: 200 },
  ]);
});

test('an origin that goes on refusing leaves the upload undelivered, with its status', async () => {
  origin.setScript(async (exchange) => {
    await exchange.readBody();
    await exchange.respond({ status: 503, body: 'busy' });
  });
  const harness = await open();
  const upload = await harness.whole();
  const why = { reason: 'refused', status: 503, problem: 'the origin answered 503' };
  expect(await harness.result(upload.id)).toMatchObject({ kind: 'undelivered', failure: why });
  expect(origin.exchanges).toHaveLength(3);
  expect((await harness.upload(upload.id)).undelivered).toEqual(why);
  expect(await harness.files()).toEqual(['chunk-0']);
});

test('any other status is the origin’s answer, however bad', async () => {
  origin.setScript(async (exchange) => {
    await exchange.readBody();
    await exchange.respond({ status: 500, reason: 'Broken', body: 'no' });
  });
  const harness = await open();
  const upload = await harness.whole();
  const answer = await harness.answer(upload.id);
  expect([answer.status, answer.reason, (await bodyOf(answer)).toString()]).toEqual([500, 'Broken', 'no']);
  expect((await harness.upload(upload.id)).phase).toBe('answered');
  expect(origin.exchanges).toHaveLength(1);
});

test('an upload whose bytes are lost is never sent short, and is gone for its client', async () => {
  const harness = await open();
  const upload = await harness.whole({ body: LARGE, cutAt: [4 * 1024 * 1024] });
  await harness.spool.removeChunk(upload.id, `chunk-${4 * 1024 * 1024}`);
  expect(await harness.result(upload.id)).toMatchObject({ kind: 'gone', upload: { lost: true } });
  expect(await harness.upload(upload.id)).toMatchObject({ phase: 'invalid', lost: true });
  expect(origin.exchanges).toHaveLength(0);
  expect(harness.lines.filter(({ level }) => level === 'error')).toHaveLength(1);
});

test('each attempt and each end is one line without the upload’s id', async () => {
  origin.setScript(failingOnce((exchange) => exchange.respond({ status: 503 })));
  const harness = await open();
  const upload = await harness.whole();
  await bodyOf(await harness.answer(upload.id));
  expect(harness.lines.map(({ msg, level }) => [level, msg])).toEqual([
    ['warn', 'delivery attempt'],
    ['info', 'delivery attempt'],
    ['info', 'upload ended'],
  ]);
  // The key of its delivery, which is told, is made of its id here.
  expect(JSON.stringify(harness.lines).replaceAll(`key-of-${upload.id}`, '')).not.toContain(upload.id);
});

test('an answer that ends with the connection is not whole when that was reset', async () => {
  let readers: () => void;
  const isRead = new Promise<void>((resolve) => (readers = resolve));
  origin.setScript(async (exchange) => {
    await exchange.readBody();
    await exchange.write('HTTP/1.1 201 Created\r\n\r\nhalf an ans');
    await isRead;
    exchange.reset();
  });
  const harness = await open();
  const upload = await harness.whole();
  const { body } = await harness.answer(upload.id);
  const pieces = body[Symbol.asyncIterator]();
  expect(String((await pieces.next()).value)).toBe('half an ans');
  readers!();
  await expect(pieces.next()).rejects.toThrow(/reset/);
  expect(await harness.result(upload.id)).toMatchObject({
    kind: 'undelivered',
    failure: { reason: 'outcome-unknown' },
  });
});

async function startRawOriginAt(port: number): Promise<RawOrigin> {
  const { createServer } = await import('node:net');
  const { RawOrigin } = await import('../support/raw-origin.js');
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  return new RawOrigin(server, answerOk);
}

/** Each step of a delivery, as its first try fails on a disk that is well again. */
test.each(['claimDelivery', 'beginAttempt', 'endAttempt', 'postpone', 'giveUp', 'recordAnswer'] as const)(
  'a disk that fails once in %s keeps no claim: the delivery goes on at once, and nothing is sent twice',
  async (step) => {
    const refusals = step === 'giveUp' ? Infinity : 1;
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      const number = origin.exchanges.indexOf(exchange) + 1;
      await exchange.respond(number <= refusals ? { status: 503 } : { status: 201, body: 'ok' });
    });
    let failures = 0;
    const storeSeenAs = (store: UploadStore): UploadStore =>
      new Proxy(store, {
        get: (target, name) => {
          const verb = Reflect.get(target, name) as unknown;
          if (typeof verb !== 'function') return verb;
          if (name === step && failures === 0)
            return () => Promise.reject(new Fault('STORAGE_UNAVAILABLE', `failure ${++failures} of ${step}`, true));
          return (...given: unknown[]): unknown => Reflect.apply(verb, target, given);
        },
      });
    // A claim that had to run out would take until tomorrow.
    const delivery = { claimMs: 24 * 3_600_000, pollMs: 5 };
    const retry = { maxAttempts: step === 'giveUp' ? 1 : 5, firstDelayMs: 1, longestDelayMs: 2 };
    const opened = await open({ storeSeenAs, delivery, retry });
    const { id } = await opened.whole();
    opened.delivery.start();
    const end = step === 'giveUp' ? 'undelivered' : 'answered';
    await until(async () => (await opened.upload(id)).phase === end, `the upload to be ${end}`);
    expect(failures).toBe(1);
    const { attempts } = await opened.upload(id);
    expect(attempts.map(({ status }) => status)).toEqual(step === 'giveUp' ? [503] : [503, 201]);
    expect(origin.exchanges).toHaveLength(attempts.length);
  },
);

test('an upload whose record cannot be read keeps no other from being delivered', async () => {
  const unreadable = new Set<string>();
  const storeSeenAs = (store: UploadStore): UploadStore => {
    const seen = Object.create(store) as UploadStore;
    seen.get = (id) =>
      unreadable.has(id) ? Promise.reject(new Fault('STORAGE_UNAVAILABLE', 'EIO', true)) : store.get(id);
    return seen;
  };
  const opened = await open({ storeSeenAs, delivery: { pollMs: 5 } });
  const uploads = [await opened.whole(), await opened.whole(), await opened.whole()];
  const [first, second, last] = uploads.map(({ id }) => id) as [string, string, string];
  unreadable.add(first).add(second);
  opened.delivery.start();
  await until(async () => (await opened.upload(last)).phase === 'answered', 'the other upload to be answered');
  unreadable.clear();
  await until(async () => (await opened.upload(first)).phase === 'answered', 'the first upload to be answered');
});
