import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Origin, type OriginRequest, Unanswered } from '../../src/delivery/origin.js';
import { useFileSystem } from '../../src/fs/files.js';
import type { CreateIntent, Interrupted, Outcome } from '../../src/model/messages.js';
import { newestUnknownOutcome } from '../../src/model/upload.js';
import type { UploadCall } from '../../src/uploads/answers.js';
import { Body } from '../../src/uploads/request-body.js';
import { TRANSPORTS } from '../support/client.js';
import { REQUEST } from '../support/delivery-harness.js';
import { Machine, route, streamOf } from '../support/faulty-machine.js';
import { FlowClient } from '../support/flow-client.js';
import { LostAnswer } from '../support/lost-answer.js';
import { MemoryDisk, memoryDisks } from '../support/memory-disk.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import { appendLines, clientDialect, type ResumableUpload } from '../support/resumable-client.js';
import { randomBytes, until } from '../support/temporary.js';
import { startTestApp, TestProxy } from '../support/test-proxy.js';
import { newId } from '../support/upload-harness.js';

// Issue 8: a client knows of an unknown outcome once it was sent the response that says so, and no earlier.

const SIDE_BY_SIDE = 32;
const BYTES = Buffer.from('the whole of it');
const CREATION: CreateIntent = {
  kind: 'create',
  dialect: 'final',
  complete: true,
  appendLimitsApply: false,
  contentDigests: [],
  reprDigests: [],
};

/** Takes each request and hangs up, but the third: that one it answers. */
class HangingOrigin implements Origin {
  requests = 0;

  constructor(private readonly onRequest: () => void) {}

  async send({ content }: OriginRequest): ReturnType<Origin['send']> {
    await content.body?.toArray();
    this.onRequest();
    if (++this.requests < 3) throw new Unanswered('sent', 'hung up', undefined);
    return {
      status: 201,
      reason: 'Created',
      headers: [],
      body: Readable.from([Buffer.from('done')]),
      trailers: () => [],
    };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** A client of one upload, on a disk whose process or power is gone at one of its operations. */
class Life {
  private readonly disk = new MemoryDisk();
  private readonly origin = new HangingOrigin(() => this.expectKnown());
  private readonly ended: Promise<unknown>[] = [];
  private machine: Machine | undefined;
  private id: string | undefined;
  /** How many requests the origin had when the client heard of their unknown outcome. */
  private heardOf = 0;
  private isAnswered = false;
  private unsaid = 0;

  /** Gives how many operations there were, and how many requests the origin got without its client having known. */
  async run(at: number, how: 'kill' | 'power-cut'): Promise<{ readonly operations: number; readonly unsaid: number }> {
    const { disk } = this;
    await this.start();
    let operations = 0;
    disk.fail(1, true, () => {
      if (++operations !== at) return undefined;
      disk.crash(how);
      return 'EIO';
    });
    for (let rounds = 0; !this.isAnswered && rounds < 20; rounds++) {
      if (this.machine!.isGone) await this.restart();
      await this.ask(this.machine!).catch((error: unknown) => {
        if (!this.machine!.isGone) throw error;
      });
    }
    expect(this.isAnswered).toBe(true);
    await this.machine!.end();
    await Promise.all(this.ended);
    expect(disk.descriptors).toBe(0);
    disk.forget();
    return { operations, unsaid: this.unsaid };
  }

  private expectKnown(): void {
    if (this.heardOf < this.origin.requests) this.unsaid++;
  }

  private async restart(): Promise<void> {
    this.disk.heal();
    this.ended.push(this.machine!.end());
    await this.start();
  }

  private async start(): Promise<void> {
    this.machine = await Machine.boot({ disk: this.disk, origin: this.origin, sync: 'always' });
  }

  /** One request, as far as its client hears of it. */
  private async ask(machine: Machine): Promise<void> {
    const outcome = await (this.id === undefined ? this.create(machine) : this.append(machine, this.id));
    if (machine.isGone) return;
    if (outcome.kind === 'answered') this.isAnswered = true;
    const end = outcome.kind === 'undelivered' ? newestUnknownOutcome(outcome.upload) : undefined;
    if (!end) return;
    this.heardOf = this.origin.requests;
    await machine.clientKnows(end);
  }

  private async create(machine: Machine): Promise<Outcome | Interrupted> {
    const call = callOf(BYTES, (id) => {
      if (!machine.isGone) this.id = id;
    });
    const outcome = await machine.uploads.create(CREATION, route, { id: newId(), request: REQUEST }, call);
    if (outcome.kind === 'elsewhere') throw new Error('a creation is elsewhere');
    return outcome;
  }

  private async append(machine: Machine, id: string): Promise<Outcome | Interrupted> {
    const shown = await machine.uploads.retrieve({ kind: 'retrieve', id });
    if (shown.kind !== 'retrieved') throw new Error(`not retrieved but ${shown.kind}`);
    const { phase, offset } = shown.upload;
    const end = phase === 'receiving' ? offset : BYTES.length;
    const intent = { kind: 'append', id, offset: end, complete: true, contentDigests: [], reprDigests: [] } as const;
    return machine.uploads.append(
      intent,
      callOf(BYTES.subarray(end), () => undefined),
    );
  }
}

function callOf(bytes: Buffer, onId: (id: string) => void): UploadCall {
  const body = new Body(streamOf(bytes), { idleMs: 60_000, onFirstRead: () => undefined });
  const sendInterim: UploadCall['sendInterim'] = (news) => {
    onId(news.upload.id);
    return true;
  };
  return { body, sendInterim, wantsProgress: () => true, credentials: [], clientLeft: new AbortController().signal };
}

describe('a process that ends at any operation around an unknown outcome', () => {
  beforeAll(() => useFileSystem(memoryDisks));
  afterAll(() => useFileSystem());

  test.each(['kill', 'power-cut'] as const)(
    'by a %s sends nothing again that its client was not told of',
    async (how) => {
      const { operations } = await new Life().run(Infinity, how);
      const unsaid: number[] = [];
      let next = 1;
      const worker = async (): Promise<void> => {
        for (let at = next++; at <= operations; at = next++)
          if ((await new Life().run(at, how)).unsaid > 0) unsaid.push(at);
      };
      await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker));
      expect(operations).toBeGreaterThan(40);
      expect(unsaid).toEqual([]);
    },
  );
});

describe.each(['embedded', 'redis'] as const)('with the %s store', (kind) => {
  let redis: RedisServer | undefined;
  let proxy: TestProxy;

  beforeAll(async () => {
    redis = kind === 'redis' ? await startRedis() : undefined;
    const config = redis ? `store: { type: redis, url: "${redis.url}" }\nspool: { shared: true }\n` : '';
    proxy = await TestProxy.open({ config }, startTestApp);
  });
  afterAll(async () => {
    await proxy.close();
    await redis?.stop();
  });

  interface Hung {
    readonly upload: ResumableUpload;
    readonly lost: LostAnswer;
    readonly client: FlowClient;
    readonly target: string;
  }

  /** All but the last byte is there, and the origin hangs up on the first request and takes the second. */
  async function hungUp(transport: (typeof TRANSPORTS)[number], name: string): Promise<Hung> {
    const client = new FlowClient(proxy, transport, 'final');
    const target = `/${name}?over=${transport === 'HTTP/2' ? 2 : 1}`;
    const bytes = randomBytes(2000, 7);
    proxy.answer(target, () => (proxy.requestsFor(target).length > 1 ? TAKEN : { hangUp: true }));
    const upload = await client.place({ target, length: 2000 });
    await upload.append(bytes.subarray(0, 1999), { offset: 0, complete: false });
    return { upload, client, target, lost: new LostAnswer(client, upload, target, bytes) };
  }

  const ends = (): number => proxy.app.log.filter(({ phase }) => phase === 'undelivered').length;

  /** Trying has ended, whoever heard of it. */
  function untilGivenUp(target: string, before: number): Promise<unknown> {
    return until(() => ends() > before, `the end of trying for ${target}`);
  }

  test.each(TRANSPORTS)('a client over %s that has the response has it sent again by its next request', async (by) => {
    const { lost } = await hungUp(by, 'told');
    await lost.expectUndelivered(await lost.repeatEnd());
    await lost.expectAnswer(await lost.repeatEnd(), TAKEN);
    lost.expectRequests(2);
  });

  test.each(TRANSPORTS)('a client over %s that left before is told first', async (by) => {
    const { lost, client, upload, target } = await hungUp(by, 'left');
    const before = ends();
    let hangUp = (): void => undefined;
    const held = new Promise<void>((resolve) => (hangUp = resolve));
    proxy.answer(target, async () => {
      await held;
      return proxy.requestsFor(target).length > 1 ? TAKEN : { hangUp: true };
    });
    const request = await client.append(upload, { offset: 1999, complete: true, bytes: 1 });
    await request.send(randomBytes(2000, 7).subarray(-1));
    await request.end();
    await proxy.requestFor(target);
    request.leave('reset');
    hangUp();
    await untilGivenUp(target, before);
    await lost.expectUndelivered(await lost.repeatEnd());
    lost.expectRequests(1);
    await lost.expectAnswer(await lost.repeatEnd(), TAKEN);
    lost.expectRequests(2);
  });

  test('a response of which a client over HTTP/2 takes nothing has told it nothing', async () => {
    const { lost, upload, target } = await hungUp('HTTP/2', 'blocked');
    const before = ends();
    const session = connectHttp2(proxy.base, { settings: { initialWindowSize: 0 } });
    try {
      const stream = appendByte(session, upload.target, randomBytes(2000, 7).subarray(-1));
      await new Promise((resolve) => stream.once('response', resolve));
      await untilGivenUp(target, before);
      await new Promise((resolve) => stream.once('close', resolve).close(8));
    } finally {
      session.destroy();
    }
    await lost.expectUndelivered(await lost.repeatEnd());
    lost.expectRequests(1);
    await lost.expectAnswer(await lost.repeatEnd(), TAKEN);
    lost.expectRequests(2);
  });

  test('a client that does not wait is told when it asks again, and then has it sent once more', async () => {
    const { client, upload, target } = await hungUp('HTTP/1.1', 'async');
    const before = ends();
    const ask = async (body = ''): Promise<[number, number]> => {
      const step = { offset: 2000 - body.length, complete: true };
      const headers = [...appendLines(client.dialect, step), PREFERS_ASYNC];
      const { status } = await client.send({ method: 'PATCH', target: upload.target, headers, body });
      return [status, proxy.requestsFor(target).length];
    };
    expect((await ask('x'))[0]).toBe(202);
    await untilGivenUp(target, before);
    expect(await ask()).toEqual([503, 1]);
    expect((await ask())[0]).toBe(202);
    await proxy.requestsWhole(target, 2);
    await until(async () => (await ask())[0] === 200, 'the answer');
    expect(proxy.requestsFor(target)).toHaveLength(2);
  });

  // P: the end once more, p: the same with its response lost on the way, H: the offset. ! the HEAD says that nobody knows.
  test.each([
    ['PP', 'unknown/1 taken/2'],
    ['pHPP', 'lost/1 204!/1 unknown/1 taken/2'],
    ['PHPP', 'unknown/1 204!/1 unknown/1 taken/2'],
    ['PHPHP', 'unknown/1 204!/1 unknown/1 204!/1 taken/2'],
    ['PHHHPHHP', 'unknown/1 204!/1 204!/1 204!/1 unknown/1 204!/1 204!/1 taken/2'],
    ['pHpHP', 'lost/1 204!/1 lost/1 204!/1 taken/2'],
    ['HPHPP', '204/0 unknown/1 204!/1 unknown/1 taken/2'],
  ])('a client that asks in the order %s hears and has delivered: %s', async (steps, expected) => {
    const { lost, upload, target } = await hungUp('HTTP/1.1', `order-${steps}`);
    const seen: string[] = [];
    for (const step of steps) seen.push(`${await take(step, lost, upload)}/${proxy.requestsFor(target).length}`);
    expect(seen.join(' ')).toBe(expected);
  });

  async function take(step: string, lost: LostAnswer, upload: ResumableUpload): Promise<string> {
    if (step === 'H') {
      const response = await upload.retrieve();
      const isTold = /error=http_response_incomplete/.test(response.header('Proxy-Status') ?? '');
      return `${response.status}${isTold ? '!' : ''}`;
    }
    const before = unknowns();
    const request = await lost.repeatEnd();
    if (step === 'P') return (await request.readFinal()).status === 200 ? 'taken' : 'unknown';
    await until(() => unknowns() > before, 'the response that is lost');
    request.leave('reset');
    return 'lost';
  }

  const unknowns = (): number => proxy.app.log.filter(({ kind, status }) => kind === 'append' && status === 503).length;

  test('an origin has no say in what nodes tell each other, in its answer or where that is kept', async () => {
    const { client, lost, upload, target } = await hungUp('HTTP/1.1', 'forged');
    proxy.answer(target, { ...TAKEN, headers: [...TAKEN.headers, ['RUFH-Unknown-End', '1 forged']] });
    const answer = await (await lost.repeatEnd()).readFinal();
    const kept = await client.send({ method: 'GET', target: `${upload.target}/answer`, headers: [], body: '' });
    expect([answer.status, answer.header('RUFH-Unknown-End')]).toEqual([200, undefined]);
    expect([kept.status, kept.header('RUFH-Unknown-End')]).toEqual([200, undefined]);
  });

  test('a client that is told of it every time has every request of its own sent once', async () => {
    const { lost, target } = await hungUp('HTTP/1.1', 'again');
    proxy.answer(target, () => (proxy.requestsFor(target).length > 3 ? TAKEN : { hangUp: true }));
    for (let times = 1; times <= 3; times++) {
      await lost.expectUndelivered(await lost.repeatEnd());
      lost.expectRequests(times);
    }
    await lost.expectAnswer(await lost.repeatEnd(), TAKEN);
    lost.expectRequests(4);
  });
});

const PREFERS_ASYNC = ['Prefer', 'respond-async'] as const;
const TAKEN = { status: 200, headers: [['Content-Type', 'text/plain']], body: 'taken' } as const;

function appendByte(session: ClientHttp2Session, path: string, byte: Buffer) {
  const lines = appendLines(clientDialect('final'), { offset: 1999, complete: true });
  const fields = Object.fromEntries(lines.map(([name, value]) => [name.toLowerCase(), value]));
  const stream = session.request({ ':method': 'PATCH', ':path': path, 'content-length': '1', ...fields });
  stream.on('error', () => undefined);
  stream.end(byte);
  return stream;
}
