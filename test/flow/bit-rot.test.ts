import { createHash } from 'node:crypto';
import { open, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { isUploadId, nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import type { HeaderLine } from '../../src/model/headers.js';
import { BLOCK_BYTES } from '../../src/spool/block-sums.js';
import { TRANSPORTS } from '../support/client.js';
import { FlowClient } from '../support/flow-client.js';
import { latch } from '../support/lost-answer.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import { completenessValue, DIALECTS, type ResumableUpload } from '../support/resumable-client.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import { type OriginRequest, startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp, TestProxy } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';
import { storedIdOf } from '../support/stored-id.js';

describe('damaged bytes', () => {
  let proxy: TestProxy;
  let redis: RedisServer | undefined;

  afterEach(async () => {
    await proxy.close();
    await redis?.stop();
    redis = undefined;
  });

  const BYTES = randomBytes(1_300_000, 6);
  const { length } = BYTES;
  const CUT = 1_200_000;
  const LOST = 'Stored bytes of this upload were lost or damaged, and it was given up. Begin a new one.';

  /** Changes one byte of a file of an upload. */
  async function rot(upload: ResumableUpload, kind: 'chunk' | 'answer', at: number): Promise<void> {
    const file = await open(await fileOf(upload, kind), 'r+');
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
    await file.write(Buffer.of(buffer[0]! ^ 1), 0, 1, at);
    await file.close();
  }

  async function fileOf({ target }: ResumableUpload, kind: string): Promise<string> {
    const directory = join(proxy.app.data, 'spool', storedIdOf(target));
    const names = (await readdir(directory)).filter((name) => name.startsWith(kind)).sort();
    return join(directory, names[0]!);
  }

  /** A request of the origin's that was sent to its end has the right bytes; one that was not is visibly cut. */
  function expectNothingWrong(target: string): void {
    const whole = proxy.requestsFor(target).filter(({ ended }) => ended !== 'cut');
    expect(whole.map(({ sha256: sum }) => sum)).toEqual(whole.map(() => sha256(BYTES)));
  }

  function expectLost(client: FlowClient, response: WireResponse): void {
    expect([404, 410]).toContain(response.status);
    expect(response.header('Content-Type')).toBe('application/problem+json');
    expect(JSON.parse(response.body.toString())).toMatchObject({ status: response.status, detail: LOST });
    const { completeness } = client.dialect;
    expect(response.header(completeness)).toBe(completenessValue(client.dialect, false));
  }

  const GATE = `delivery: { gate: { command: ["/bin/sh", "-c", "cat > /dev/null"] } }`;
  const MULTIPART = 'delivery: { framing: { type: multipart, field: file } }';
  const MODES: Record<string, string> = {
    'from the spool': '',
    eagerly: 'delivery: { mode: eager }',
    'past a gate': GATE,
    'as a form': MULTIPART,
  };

  /** Of the first chunk: two full blocks and their sums, then what is left. */
  const PLACES = { 'a full block': BLOCK_BYTES + 5000, 'a checksum': BLOCK_BYTES + 1, 'the last block': CUT - 1000 };

  describe.each(TRANSPORTS)('over %s', (transport) => {
    test.each(Object.keys(MODES))(
      'a changed byte ends an upload that is delivered %s, wherever it is',
      async (mode) => {
        proxy = await TestProxy.open({ config: MODES[mode] });
        for (const [place, at] of Object.entries(PLACES)) {
          const client = new FlowClient(proxy, transport, '10');
          const target = `/rot/${place.replaceAll(' ', '-')}`;
          const upload = await client.place({ target, length });
          await upload.append(BYTES.subarray(0, CUT), { offset: 0, complete: false });
          await rot(upload, 'chunk', at);
          const refused = await upload.append(BYTES.subarray(CUT), { offset: CUT, complete: true });
          if (mode !== 'eagerly' || refused.status >= 400) expectLost(client, refused);
          expect((await upload.retrieve()).status).toBe(refused.status >= 400 ? 410 : 204);
          if (mode !== 'as a form') expectNothingWrong(target);
          else expect(proxy.requestsFor(target).filter(({ ended }) => ended !== 'cut')).toEqual([]);
        }
        const lines = proxy.app.log.filter(({ msg }) => msg === 'an upload whose bytes are lost is given up');
        if (mode !== 'eagerly') expect(lines).toHaveLength(3);
      },
    );

    test('a kept answer that is damaged or missing is told with a status, and never given', async () => {
      proxy = await TestProxy.open({ config: 'delivery: { keep_answer_size: 4KiB }' });
      const client = new FlowClient(proxy, transport, '10');
      for (const damage of ['changed', 'missing'] as const)
        for (const size of [1025, 5000]) {
          const target = `/answer/${damage}/${size}`;
          proxy.answer(target, () => ({ status: 201, headers: [], body: 'x'.repeat(size) }));
          const upload = await client.place({ target, length });
          expect((await upload.append(BYTES, { offset: 0, complete: true })).status).toBe(201);
          const record = join(proxy.app.data, 'uploads', `${storedIdOf(upload.target)}.answer`);
          const path = size > 4096 ? await fileOf(upload, 'answer') : record;
          if (damage === 'missing') await rm(path);
          else {
            const file = await open(path, 'r+');
            await file.write(Buffer.from('y'), 0, 1, 50);
            await file.close();
          }
          const response = await upload.append(BYTES.subarray(-1), { offset: length - 1, complete: true });
          expect(response.status).toBe(500);
          expect([response.header('Upload-Complete'), response.header('Upload-Offset')]).toEqual(['?1', `${length}`]);
          expect(JSON.parse(response.body.toString())).toMatchObject({
            status: 500,
            detail: expect.stringContaining('The upload was delivered, and its target answered 201'),
          });
          const page = await client.send({ method: 'GET', target: `${upload.target}/answer` });
          expect([page.status, page.header('Content-Type')]).toEqual([500, 'application/problem+json']);
          expect(proxy.requestsFor(target)).toHaveLength(1);
        }
      const lines = proxy.app.log.filter(({ msg }) => /^a kept answer is lost/.test(String(msg)));
      expect(lines).toHaveLength(4);
    });

    test.each(['its page', 'the end once more'])(
      'a kept answer is looked through only as long as the client that asks for it, by %s, is there',
      async (by) => {
        proxy = await TestProxy.open({ config: 'delivery: { keep_answer_size: 1KiB }' }, startTestApp);
        const client = new FlowClient(proxy, transport, '10');
        proxy.answer('/long', { status: 201, body: 'x'.repeat(3 * 1024 * 1024) });
        const upload = await client.place({ target: '/long', length: 5 });
        expect((await upload.append('hello', { offset: 0, complete: true })).status).toBe(201);
        let reads = 0;
        const { opened: over, open: end } = latch();
        useFileSystem({
          ...nodeFileSystem,
          readv: async (...given) => (reads++, await over, await nodeFileSystem.readv(...given)),
        });
        try {
          const page = { method: 'GET', target: `${upload.target}/answer`, headers: [] };
          const request =
            by === 'its page'
              ? await proxy.begin(transport, page)
              : await client.append(upload, { offset: 5, complete: true, bytes: 0 });
          await request.end();
          await until(() => reads > 0, 'the first block to be read');
          const ended = proxy.app.log.length;
          request.leave('reset');
          // The disk has given nothing yet.
          await until(() => proxy.app.log.slice(ended).some(({ msg }) => msg === 'request'), 'the end of the request');
          await request.close();
        } finally {
          end();
          useFileSystem();
        }
        expect(reads).toBe(1);
        expect((await upload.append('', { offset: 5, complete: true })).body).toHaveLength(3 * 1024 * 1024);
        expect(proxy.app.log.filter(({ level }) => level === 'error')).toEqual([]);
      },
    );
  });

  test.each(DIALECTS)('a client of version %s hears that its upload was lost', async (interop) => {
    proxy = await TestProxy.open();
    const client = new FlowClient(proxy, 'HTTP/1.1', interop);
    const upload = await client.place({ target: '/rot', length });
    await upload.append(BYTES.subarray(0, CUT), { offset: 0, complete: false });
    await rot(upload, 'chunk', 5);
    expectLost(client, await upload.append(BYTES.subarray(CUT), { offset: CUT, complete: true }));
    expectNothingWrong('/rot');
  });

  test('with Redis, bytes and kept answers are held to their checksums as well', async () => {
    redis = await startRedis();
    const config = `store: { type: redis, url: 'redis://127.0.0.1:${redis.port}' }\ndelivery: { keep_answer_size: 1KiB }`;
    proxy = await TestProxy.open({ config });
    const client = new FlowClient(proxy, 'HTTP/1.1', '10');
    const upload = await client.place({ target: '/rot', length });
    await upload.append(BYTES.subarray(0, CUT), { offset: 0, complete: false });
    await rot(upload, 'chunk', 199_000);
    expectLost(client, await upload.append(BYTES.subarray(CUT), { offset: CUT, complete: true }));
    expectLost(client, await upload.append(BYTES.subarray(-1), { offset: length - 1, complete: true }));
    expectNothingWrong('/rot');
    proxy.answer('/well', () => ({ status: 201, headers: [], body: 'x'.repeat(3000) }));
    const well = await client.place({ target: '/well', length });
    await well.append(BYTES.subarray(0, CUT), { offset: 0, complete: false });
    expect((await well.append(BYTES.subarray(CUT), { offset: CUT, complete: true })).status).toBe(201);
    expectNothingWrong('/well');
    await rot(well, 'answer', 5);
    expect((await well.append(BYTES.subarray(-1), { offset: length - 1, complete: true })).status).toBe(500);
  });
});

describe('every way of delivery', () => {
  const BYTES = randomBytes(1_300_000, 6);
  const CUT = 1_200_000;
  /** In the second of three blocks. */
  const PLACE = 700_000;
  const LOST = 'Stored bytes of this upload were lost or damaged, and it was given up. Begin a new one.';
  const REPR_DIGEST: HeaderLine = ['Repr-Digest', `sha-256=:${createHash('sha256').update(BYTES).digest('base64')}:`];

  /** Every way in which bytes leave the spool; all of them try again soon after a 503. */
  const WAYS = {
    plainly: '',
    eagerly: 'mode: eager, ',
    'past a command': 'gate: { command: ["/bin/sh", "-c", "cat > /dev/null"] }, ',
    'past a service': 'gate: { http: GATE }, ',
    'as a form': 'framing: { type: multipart, field: file }, ',
    'as another request': 'method: PUT, target: "{path}", ',
  } as const;
  type Way = keyof typeof WAYS;

  const STORES: Record<string, (url: string) => string> = {
    'the embedded store': () => '',
    'Redis and a shared spool': (url) => `store: { type: redis, url: "${url}" }\nspool: { shared: true }\n`,
    'Redis and a spool of its own': (url) => `store: { type: redis, url: "${url}" }\n`,
  };

  /** When a byte changes: before its client has sent the last one, or between two attempts at the origin. */
  const MOMENTS = ['before its end', 'between two attempts'] as const;

  function routes(gate: string): string {
    const ways = Object.values(WAYS).map(
      (settings, at) =>
        `  - match: { path: /${at}/** }\n    plain_bodies: spool\n    delivery: { ${settings}retry: { first_delay: 10ms } }\n`,
    );
    return `delivery: { keep_answer_size: 1KiB }\nroutes:\n${ways.join('')}`.replace('GATE', `"${gate}/gate"`);
  }

  describe.each(Object.keys(STORES))('with %s', (kind) => {
    let redis: RedisServer;
    let gate: TestOrigin;
    let proxy: TestProxy;
    let app: TestApp;
    let before: MetricValues;

    interface MetricValues {
      readonly lost: number;
      readonly lostAnswers: number;
      readonly invalid: number;
      readonly lines: number;
    }

    beforeAll(async () => {
      [redis, gate] = await Promise.all([startRedis(), startTestOrigin()]);
      const config = STORES[kind]!(redis.url) + routes(gate.url);
      proxy = await TestProxy.open({ config }, async (options) => (app = await startTestApp(options)));
    });
    beforeEach(async () => {
      // A sound one in between: an origin that says "not now" each time would be left alone for a while.
      expect((await proxy.send('HTTP/1.1', { method: 'POST', target: '/0/sound', body: 'well' })).status).toBe(200);
      before = await figures();
    });
    afterAll(async () => {
      await proxy.close();
      await gate.close();
      await redis.stop();
    });

    async function figures(): Promise<MetricValues> {
      const request = { method: 'GET', path: '/metrics', query: new URLSearchParams(), headers: {} };
      const { body = '' } = await app.operators.respond(request);
      const figure = (name: string): number => {
        const line = body.split('\n').find((each) => each.startsWith(`${name} `));
        return Number(line?.slice(name.length) ?? 0);
      };
      return {
        lost: figure('rufh_bytes_lost_total{what="upload"}'),
        lostAnswers: figure('rufh_bytes_lost_total{what="answer"}'),
        invalid: figure('rufh_uploads_ended_total{phase="invalid"}'),
        lines: proxy.app.log.filter(({ msg }) => msg === 'an upload whose bytes are lost is given up').length,
      };
    }

    /** Changes one byte of the newest upload, in the largest file of this kind; only one is under way here at a time. */
    async function rot(prefix: 'chunk' | 'answer', at: number): Promise<void> {
      const root = join(proxy.app.data, 'spool');
      const files: { path: string; size: number; bornAt: number }[] = [];
      for (const id of (await readdir(root)).filter(isUploadId)) {
        // Those of the upload before this one may be about to go.
        const names = await readdir(join(root, id)).catch(() => []);
        for (const name of names.filter((each) => each.startsWith(prefix))) {
          const path = join(root, id, name);
          const found = await Promise.all([stat(path), stat(join(root, id))]).catch(() => undefined);
          if (found) files.push({ path, size: found[0].size, bornAt: found[1].birthtimeMs });
        }
      }
      const { path } = files.sort((one, other) => one.bornAt - other.bornAt || one.size - other.size).at(-1)!;
      const file = await open(path, 'r+');
      const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
      await file.write(Buffer.of(buffer[0]! ^ 1), 0, 1, at);
      await file.close();
    }

    /** The origin's first answer is "not now", and meanwhile a byte changes. */
    function rotsAtFirst(target: string): () => number {
      let attempts = 0;
      proxy.answer(target, async () => {
        if (++attempts > 1) return { status: 201, body: 'made' };
        await rot('chunk', PLACE);
        return { status: 503 };
      });
      return () => attempts;
    }

    function wrong(requests: readonly OriginRequest[], way: Way): string[] {
      const isRight = ({ sha256: sum, body }: OriginRequest): boolean =>
        way === 'as a form' ? body.includes(BYTES) : sum === sha256(BYTES);
      const whole = requests.filter(({ ended }) => ended === 'whole');
      return whole
        .filter((request) => !isRight(request))
        .map(({ method, size, sha256: sum }) => `${method} ${size} ${sum}`);
    }

    function expectLost(response: WireResponse): void {
      expect([404, 410]).toContain(response.status);
      expect(JSON.parse(response.body.toString())).toMatchObject({ status: response.status, detail: LOST });
    }

    async function expectToldOnce(): Promise<void> {
      const { lost, lostAnswers, invalid, lines } = before;
      await until(async () => (await figures()).lines > lines, 'a line in the log');
      expect(await figures()).toEqual({ lost: lost + 1, lostAnswers, invalid: invalid + 1, lines: lines + 1 });
    }

    const rows = (Object.keys(WAYS) as Way[]).flatMap((way) =>
      MOMENTS.map((moment) => ({ way, moment, hasDigest: moment === 'before its end' })),
    );

    test.each(rows)(
      'an upload delivered $way ends as lost when a byte changes $moment (Repr-Digest: $hasDigest)',
      async ({ way, moment, hasDigest }) => {
        const target = `/${Object.keys(WAYS).indexOf(way)}/${moment.replaceAll(' ', '-')}/${String(hasDigest)}`;
        const client = new FlowClient(proxy, 'HTTP/1.1', '10');
        const asked = gate.requests.length;
        const attempts = moment === 'between two attempts' ? rotsAtFirst(target) : undefined;
        // What an eager origin has got already was right; the rest of its request would be, too.
        const isSentBefore = way === 'eagerly' && moment === 'before its end';
        if (isSentBefore) proxy.answer(target, ({ ended }) => ({ status: ended === 'whole' ? 503 : 500 }));
        const digest = hasDigest ? [REPR_DIGEST] : [];
        const upload = await client.place({ target, length: BYTES.length, lines: digest });
        await upload.append(BYTES.subarray(0, CUT), { offset: 0, complete: false });
        if (!attempts) await rot('chunk', PLACE);
        expectLost(await upload.append(BYTES.subarray(CUT), { offset: CUT, complete: true }));
        if (attempts) expect(attempts()).toBe(1);
        expect(wrong(proxy.requestsFor(target), way)).toEqual([]);
        expect(wrong(gate.requests.slice(asked), way)).toEqual([]);
        if (!attempts && !isSentBefore)
          expect(proxy.requestsFor(target).filter(({ ended }) => ended !== 'cut').length).toBe(0);
        expectLost(await upload.append(BYTES.subarray(-1), { offset: BYTES.length - 1, complete: true }));
        await expectToldOnce();
      },
    );

    test.each(Object.keys(WAYS) as Way[])('a plain body that is spooled and delivered %s is as safe', async (way) => {
      const target = `/${Object.keys(WAYS).indexOf(way)}/plain`;
      const attempts = rotsAtFirst(target);
      const answer = await proxy.send('HTTP/1.1', { method: 'POST', target, body: BYTES });
      expect(answer.status).toBe(500);
      expect(JSON.parse(answer.body.toString())).toMatchObject({
        status: 500,
        detail: expect.stringContaining('its stored bytes were lost or damaged'),
      });
      expect(attempts()).toBe(1);
      expect(wrong(proxy.requestsFor(target), way)).toEqual([]);
      await expectToldOnce();
    });

    test.each([5, 600_000])(
      'a kept answer with a wrong byte (%i) is told to whoever asks for it, and never given',
      async (at) => {
        const target = `/0/answer/${at}`;
        proxy.answer(target, () => ({ status: 201, headers: [], body: 'x'.repeat(700_000) }));
        const upload = await new FlowClient(proxy, 'HTTP/1.1', '10').place({ target, length: BYTES.length });
        expect((await upload.append(BYTES, { offset: 0, complete: true })).status).toBe(201);
        await rot('answer', at);
        const again = await upload.append(BYTES.subarray(-1), { offset: BYTES.length - 1, complete: true });
        const page = await proxy.send('HTTP/1.1', { method: 'GET', target: `${upload.target}/answer` });
        for (const { status, body } of [again, page]) {
          expect(status).toBe(500);
          expect(JSON.parse(body.toString())).toMatchObject({
            detail: expect.stringContaining('The upload was delivered, and its target answered 201'),
          });
        }
        expect(proxy.requestsFor(target)).toHaveLength(1);
        const { lost, lostAnswers, invalid } = before;
        expect(await figures()).toMatchObject({ lost, lostAnswers: lostAnswers + 1, invalid });
      },
    );
  });
});
