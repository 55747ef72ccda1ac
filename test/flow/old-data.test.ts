import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { type DumpedKey, loadRedis, restoreDirectory } from '../support/old-data-files.js';
import {
  besideUploads,
  configFor,
  type ExpectedSetup,
  facts,
  fixtureOf,
  listed,
  look,
  NOBODY,
  OLD,
  OldClient,
  type OldUpload,
  type ProxyAccess,
  type Seen,
  SETUP_NAMES,
  type SetupName,
  SETUPS,
  targetOf,
  untilPhase,
  uploadsOf,
  wholeOf,
} from '../support/old-data.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import { freePort, temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { type OriginRequest, startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

// Issue 10: what an earlier version has kept stays readable. `test/fixtures/make-old-data.ts` makes it, and leaves out the keys
// of Redis that are forgotten within a day. `restoreDirectory` says what of a directory is adapted to this machine, and why.
const TAKEN = { status: 201, headers: [['X-Answer', 'taken']] as const, body: 'taken' };

/** The proxy of today on the data of a place. */
class Heir implements ProxyAccess {
  /** Until then the origin answers nothing that nobody has asked for. */
  private letAnswer = (): void => undefined;
  private readonly mayAnswer = new Promise<void>((resolve) => (this.letAnswer = resolve));

  private constructor(
    readonly uploads: readonly OldUpload[],
    private readonly app: TestApp,
    private readonly origin: TestOrigin,
    private readonly service: TestOrigin,
    private readonly redis: RedisServer | undefined,
    private readonly directory: TemporaryDirectory,
  ) {
    origin.answerWith(({ target }) => ({ ...TAKEN, ...(this.isDue(target) && { after: this.mayAnswer }) }));
  }

  static async open(name: SetupName, expected: ExpectedSetup): Promise<Heir> {
    const place = SETUPS[name];
    const directory = await temporaryDirectory('rufh-old-');
    const data = join(directory.path, 'data');
    await restoreDirectory(join(fixtureOf(name), OLD.directory), data, expected);
    const redis = place.redis ? await startRedis() : undefined;
    if (redis) await loadRedis(redis.url, JSON.parse(textOf(name, OLD.redis)) as DumpedKey[]);
    const origin = await startTestOrigin();
    const { url } = origin;
    const service = await startTestOrigin((request) => {
      const user = request.header('authorization') === 'Bearer ada' ? 'ada' : 'bob';
      const plan = ['X-Plan', 'another'] as const;
      return { status: 204, headers: [['Remote-User', user], plan] };
    });
    const around = { origin: url, away: url, early: url, service: service.url, redis: redis?.url ?? '' };
    const config = configFor(place, { ...around, peers: `127.0.0.1:${await freePort()}` });
    const app = await startTestApp({ origin: url, config, data });
    return new Heir(uploadsOf(place), app, origin, service, redis, directory);
  }

  get url(): string {
    return this.app.url;
  }

  readonly operate: ProxyAccess['operate'] = async (method, path, query = '') => {
    const request = { method, path, query: new URLSearchParams(query), headers: {} };
    const { status, body = 'null' } = await this.app.operators.respond(request);
    return { status, body: JSON.parse(body) as unknown };
  };

  answerWhatIsDue(): void {
    this.letAnswer();
  }

  requestsFor(upload: OldUpload): OriginRequest[] {
    return this.origin.requests.filter(({ target }) => target === targetOf(upload));
  }

  async close(): Promise<void> {
    this.letAnswer();
    await this.app.stop();
    await this.origin.close();
    await this.service.close();
    await this.redis?.stop();
    await this.directory.remove();
  }

  /** How often a gate was given an upload. */
  get gateQuestions(): number {
    return this.service.requests.filter(({ method }) => method === 'POST').length;
  }

  private isDue(target: string): boolean {
    return this.uploads.some((upload) => upload.kind === 'due' && targetOf(upload) === target);
  }
}

function textOf(setup: SetupName, file: string): string {
  return readFileSync(join(fixtureOf(setup), file), 'utf8');
}

/** What leads to the delivery of an upload without an answer, and what its client is told before. */
interface Way {
  readonly by: 'client' | 'operator';
  readonly told?: number;
  readonly lines?: readonly HeaderLine[];
  readonly query?: string;
}

const WAYS: Readonly<Record<string, Way>> = {
  quarantined: { by: 'operator', told: 403, query: 'past_gate=true&operator=ada' },
  unauthorized: { by: 'client', told: 401, lines: [['Authorization', 'Bearer of the client']] },
  refused: { by: 'client' },
  unreachable: { by: 'operator' },
  'unknown-told': { by: 'client' },
  'unknown-untold': { by: 'client', told: 503 },
  'unknown-asked': { by: 'client', told: 502 },
  'answer-too-large': { by: 'client', told: 502 },
  'sent-post': { by: 'client', told: 503 },
};

describe.each(SETUP_NAMES)('what was kept: %s', (setup) => {
  const text = textOf(setup, OLD.expected);
  const expected = JSON.parse(text) as ExpectedSetup;
  const uploads = uploadsOf(SETUPS[setup]);
  const of = (kind: OldUpload['kind']): readonly OldUpload[] => uploads.filter((upload) => upload.kind === kind);
  const pathOf = ({ name }: OldUpload): string => expected.uploads[name]!.path!;
  const urlOf = (upload: OldUpload): string => `http://files.example${pathOf(upload)}`;
  const seen = new Map<OldUpload, Seen>();
  let heir: Heir;
  let list: Awaited<ReturnType<typeof listed>>;

  const isOld = (words: string): boolean => text.includes(JSON.stringify(words).slice(1, -1));

  beforeAll(async () => {
    heir = await Heir.open(setup, expected);
    list = await listed(heir);
    for (const upload of uploads)
      seen.set(upload, await look(heir, upload, expected.uploads[upload.name]!.path, isOld));
  });
  afterAll(() => heir.close());

  const clientOf = (upload: OldUpload): OldClient => new OldClient(heir, upload);

  function expectTaken(response: WireResponse): void {
    expect([response.status, response.header('X-Answer'), response.body.toString()]).toEqual([201, 'taken', 'taken']);
  }

  /** The origin got the whole once, as its first version would have sent it. */
  function expectDelivered(upload: OldUpload): OriginRequest {
    const requests = heir.requestsFor(upload).filter(({ ended }) => ended === 'whole');
    expect(requests).toHaveLength(1);
    const [request] = requests;
    const { whole, shown } = expected.uploads[upload.name]!;
    expect(request).toMatchObject({ method: upload.method ?? 'POST', ...whole });
    expect(request!.header('Idempotency-Key')).toBe(shown!['idempotencyKey']);
    const sent = (upload.lines ?? []).filter(([name]) => !/^want-/i.test(name));
    for (const line of sent) expect(request!.headers).toContainEqual(line);
    expect(request!.trailers).toEqual(upload.trailers ?? []);
    const forwarded = ['Host', 'X-Forwarded-For', 'X-Forwarded-Proto'].map((name) => request!.header(name));
    const [addresses, scheme] = upload.isForwarded ? ['192.0.2.7, 127.0.0.1', 'https'] : ['127.0.0.1', 'http'];
    expect(forwarded).toEqual(['files.example', addresses, scheme]);
    return request!;
  }

  test('all of it is listed, and nothing else', async () => {
    const known = uploads.map(({ name }) => expected.uploads[name]!.shown).filter((shown) => shown !== undefined);
    const tags = (all: readonly Readonly<Record<string, unknown>>[]): unknown[] => all.map(({ tag }) => tag).sort();
    expect(tags(list.uploads)).toEqual(tags(known));
    const { length } = Object.keys(expected.beside);
    expect(await besideUploads(heir, length, isOld)).toEqual(expected.beside);
  });

  test.each(uploads)('$name is seen as before', (upload) => {
    const { sent, whole, ...before } = expected.uploads[upload.name]!;
    expect({ ...(before.path && { path: before.path }), ...seen.get(upload) }).toEqual(before);
    expect(facts(wholeOf(upload))).toEqual(whole);
    expect(facts(wholeOf(upload).subarray(0, sent.size))).toEqual(sent);
  });

  for (const upload of uploads.filter(({ lines = [], dialect }) => dialect !== 'plain' && lines.some(isKey)))
    test(`the key of its client finds ${upload.name} again`, async () => {
      const client = clientOf(upload);
      if (upload.kind === 'receiving') {
        const { status, headerLines } = await client.create('', { complete: false });
        expect([status, headerLines]).toEqual([201, expect.arrayContaining([['Location', urlOf(upload)]])]);
      } else {
        const { status, body } = await client.create(client.whole, { complete: true });
        expect([status, facts(body)]).toEqual([seen.get(upload)!.page!.status, seen.get(upload)!.page!.body]);
      }
      expect(heir.requestsFor(upload)).toEqual([]);
    });

  for (const upload of uploads.filter(({ route }) => route === 'bound'))
    test(`${upload.name} is still that of its client alone`, async () => {
      const other = new OldClient(heir, { ...upload, identity: [['Authorization', 'Bearer bob']] });
      expect((await other.at(pathOf(upload)).retrieve()).status).toBe(404);
      expect(seen.get(upload)!.head!.status).toBe(204);
    });

  for (const upload of of('receiving'))
    test(`${upload.name} goes on where it was`, async () => {
      const client = clientOf(upload);
      expectTaken(await client.at(pathOf(upload)).finish(client.whole));
      const request = expectDelivered(upload);
      // That of the service's first word, which it has changed since.
      if (upload.route === 'bound') expect(request.header('X-Plan')).toBe('gold');
    });

  for (const upload of of('due'))
    test(`${upload.name} is delivered by itself`, async () => {
      await until(() => heir.requestsFor(upload).some(({ ended }) => ended === 'whole'), 'it to reach the origin');
      heir.answerWhatIsDue();
      await untilPhase(heir, upload, 'answered');
      expectTaken(await clientOf(upload).complete(pathOf(upload)));
      expectDelivered(upload);
    });

  for (const upload of of('answered'))
    test(`${upload.name} has asked the origin nothing, however often its client came for the answer`, async () => {
      const answer = await clientOf(upload).complete(expected.uploads[upload.name]!.path);
      const { status, body } = seen.get(upload)!.repeated!;
      expect([answer.status, facts(answer.body)]).toEqual([status, body]);
      expect(heir.requestsFor(upload)).toEqual([]);
    });

  for (const upload of of('undelivered'))
    test(`${upload.name} waits for its client or an operator, and is delivered then`, async () => {
      const { by, told, lines = [], query = '' } = WAYS[upload.name]!;
      const client = clientOf(upload);
      const path = pathOf(upload);
      const { gateQuestions } = heir;
      if (told !== undefined) expect((await client.complete(path)).status).toBe(told);
      expect(heir.requestsFor(upload)).toEqual([]);
      if (by === 'operator') {
        const { tag } = expected.uploads[upload.name]!.shown!;
        expect(await heir.operate('POST', `/uploads/${String(tag)}/redeliver`, query)).toMatchObject({ status: 202 });
        await untilPhase(heir, upload, 'answered');
      }
      expectTaken(await client.complete(path, lines));
      const request = expectDelivered(upload);
      for (const line of lines) expect(request.headers).toContainEqual(line);
      expect(heir.gateQuestions).toBe(gateQuestions);
    });

  for (const upload of of('elsewhere'))
    test(`${upload.name} is the other node's, and nobody delivers it here`, async () => {
      const { tag } = expected.uploads[upload.name]!.shown!;
      const { status, body } = await heir.operate('POST', `/uploads/${String(tag)}/redeliver`);
      expect([status, JSON.stringify(body)]).toEqual([409, expect.stringContaining(NOBODY)]);
    });
});

function isKey([name]: HeaderLine): boolean {
  return name === 'Idempotency-Key';
}
