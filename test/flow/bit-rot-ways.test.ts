import { createHash } from 'node:crypto';
import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { isUploadId } from '../../src/fs/files.js';
import type { HeaderLine } from '../../src/model/headers.js';
import { startTestApp, type TestApp } from '../support/app.js';
import { type FakeOrigin, type OriginRequest, startFakeOrigin } from '../support/fake-origin.js';
import type { RedisServer } from '../support/redis-server.js';
import { startRedis } from '../support/redis-servers.js';
import { StageClient } from '../support/stage-client.js';
import { Stage } from '../support/stage.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import type { WireResponse } from '../support/wire-response.js';

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
  let gate: FakeOrigin;
  let stage: Stage;
  let app: TestApp;
  let before: MetricValues;

  interface MetricValues {
    readonly lost: number;
    readonly lostAnswers: number;
    readonly invalid: number;
    readonly lines: number;
  }

  beforeAll(async () => {
    [redis, gate] = await Promise.all([startRedis(), startFakeOrigin()]);
    const config = STORES[kind]!(redis.url) + routes(gate.url);
    stage = await Stage.open({ config }, async (options) => (app = await startTestApp(options)));
  });
  beforeEach(async () => {
    // A sound one in between: an origin that says "not now" each time would be left alone for a while.
    expect((await stage.send('HTTP/1.1', { method: 'POST', target: '/0/sound', body: 'well' })).status).toBe(200);
    before = await figures();
  });
  afterAll(async () => {
    await stage.close();
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
      lines: stage.app.log.filter(({ msg }) => msg === 'an upload whose bytes are lost is given up').length,
    };
  }

  /** Changes one byte of the newest upload, in the largest file of this kind; only one is under way here at a time. */
  async function rot(prefix: 'chunk' | 'answer', at: number): Promise<void> {
    const root = join(stage.app.data, 'spool');
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
    stage.answer(target, async () => {
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
      const client = new StageClient(stage, 'HTTP/1.1', '10');
      const asked = gate.requests.length;
      const attempts = moment === 'between two attempts' ? rotsAtFirst(target) : undefined;
      // What an eager origin has got already was right; the rest of its request would be, too.
      const isSentBefore = way === 'eagerly' && moment === 'before its end';
      if (isSentBefore) stage.answer(target, ({ ended }) => ({ status: ended === 'whole' ? 503 : 500 }));
      const digest = hasDigest ? [REPR_DIGEST] : [];
      const upload = await client.place({ target, length: BYTES.length, lines: digest });
      await upload.append(BYTES.subarray(0, CUT), { offset: 0, complete: false });
      if (!attempts) await rot('chunk', PLACE);
      expectLost(await upload.append(BYTES.subarray(CUT), { offset: CUT, complete: true }));
      if (attempts) expect(attempts()).toBe(1);
      expect(wrong(stage.requestsFor(target), way)).toEqual([]);
      expect(wrong(gate.requests.slice(asked), way)).toEqual([]);
      if (!attempts && !isSentBefore)
        expect(stage.requestsFor(target).filter(({ ended }) => ended !== 'cut').length).toBe(0);
      expectLost(await upload.append(BYTES.subarray(-1), { offset: BYTES.length - 1, complete: true }));
      await expectToldOnce();
    },
  );

  test.each(Object.keys(WAYS) as Way[])('a plain body that is spooled and delivered %s is as safe', async (way) => {
    const target = `/${Object.keys(WAYS).indexOf(way)}/plain`;
    const attempts = rotsAtFirst(target);
    const answer = await stage.send('HTTP/1.1', { method: 'POST', target, body: BYTES });
    expect(answer.status).toBe(500);
    expect(JSON.parse(answer.body.toString())).toMatchObject({
      status: 500,
      detail: expect.stringContaining('its stored bytes were lost or damaged'),
    });
    expect(attempts()).toBe(1);
    expect(wrong(stage.requestsFor(target), way)).toEqual([]);
    await expectToldOnce();
  });

  test.each([5, 600_000])(
    'a kept answer with a wrong byte (%i) is told to whoever asks for it, and never given',
    async (at) => {
      const target = `/0/answer/${at}`;
      stage.answer(target, () => ({ status: 201, headers: [], body: 'x'.repeat(700_000) }));
      const upload = await new StageClient(stage, 'HTTP/1.1', '10').place({ target, length: BYTES.length });
      expect((await upload.append(BYTES, { offset: 0, complete: true })).status).toBe(201);
      await rot('answer', at);
      const again = await upload.append(BYTES.subarray(-1), { offset: BYTES.length - 1, complete: true });
      const page = await stage.send('HTTP/1.1', { method: 'GET', target: `${upload.target}/answer` });
      for (const { status, body } of [again, page]) {
        expect(status).toBe(500);
        expect(JSON.parse(body.toString())).toMatchObject({
          detail: expect.stringContaining('The upload was delivered, and its target answered 201'),
        });
      }
      expect(stage.requestsFor(target)).toHaveLength(1);
      const { lost, lostAnswers, invalid } = before;
      expect(await figures()).toMatchObject({ lost, lostAnswers: lostAnswers + 1, invalid });
    },
  );
});
