import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { openRequest, requestOnce } from '../support/client.js';
import { spooledBytes } from '../support/disk.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import {
  appendLines,
  clientDialect,
  creationLines,
  DIALECTS,
  progressOf,
  ResumableUpload,
} from '../support/resumable-client.js';
import { storedIdOf } from '../support/stored-id.js';
import { occurrences, spellingsOf } from '../support/spellings.js';
import { serverPort, temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { part } from '../support/thoroughness.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { type OriginRequest, startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { FILE, STREAM, TUS } from '../support/tus-client.js';
import type { WireResponse } from '../support/wire.js';

// Issue 12, done when 4: nothing that opens an upload or an account is readable where the proxy leaves data.
const MARKS = {
  authorization: 'Bearer mark-authorization-Kq3v9Zt7',
  cookie: 'session=mark-cookie-Xw2p8Lm4',
  setCookie: 'session=mark-set-cookie-Tb6n1Rj5; Path=/; HttpOnly',
  apiKey: 'mark-api-key-Gd4h7Sf2',
  serviceToken: 'mark-service-token-Pc9y3Vk8',
  csrf: 'mark-own-field-Jm5r2Wb6',
} as const;

/** What is searched for in each mark: words around it may be anywhere. */
const SECRETS = Object.values(MARKS).map((value) => /mark-[\w-]+/.exec(value)![0]);

const CREDENTIALS: readonly HeaderLine[] = [
  ['Authorization', MARKS.authorization],
  ['Cookie', MARKS.cookie],
  ['X-Api-Key', MARKS.apiKey],
  ['X-Form-Token', MARKS.csrf],
];

const ROUTES = (auth: string): string => `
log: { level: trace }
delivery: { client_keys: true, credentials: [authorization, cookie, x-form-token], retry: { attempts: 1 } }
routes:
  - match: { path: /eager/** }
    delivery: { mode: eager }
  - match: { path: /gated/** }
    delivery: { gate: { command: ["/bin/sh", "-c", "cat > /dev/null"] } }
  - match: { path: /asked/** }
    authorize: { forward_auth: { url: "${auth}", copy_headers: [X-Auth-Token, X-User], principal_header: X-User }, recheck: true }
    bind_to: principal
  - match: { path: /spooled/** }
    plain_bodies: spool
  - match: { path: /** }
`;

interface Kind {
  readonly name: string;
  readonly usesRedis: boolean;
  readonly nodes: number;
}
const KINDS: readonly Kind[] = [
  { name: 'the embedded store', usesRedis: false, nodes: 1 },
  { name: 'Redis and a shared spool', usesRedis: true, nodes: 1 },
  { name: 'Redis and two nodes', usesRedis: true, nodes: 2 },
];

describe.each(KINDS)('with $name', ({ usesRedis, nodes }) => {
  let redis: RedisServer | undefined;
  let origin: TestOrigin;
  let auth: TestOrigin;
  let directory: TemporaryDirectory;
  const apps: TestApp[] = [];
  const tokens = new Set<string>();

  beforeAll(async () => {
    [origin, auth, directory] = await Promise.all([startTestOrigin(), startTestOrigin(), temporaryDirectory()]);
    redis = usesRedis ? await startRedis({ settings: ['rdbcompression no'] }) : undefined;
    origin.answerWith(({ target }) => {
      if (target.includes('refused')) return { status: 503 };
      if (target.includes('parked')) return { status: 401, headers: [['Set-Cookie', MARKS.setCookie]], body: 'who?' };
      return { status: 201, headers: [['Set-Cookie', MARKS.setCookie]], body: 'taken' };
    });
    auth.answerWith(() => ({
      status: 200,
      headers: [
        ['X-Auth-Token', MARKS.serviceToken],
        ['X-User', 'ada'],
      ],
    }));
    for (let at = 0; at < nodes; at++) apps.push(await start(at));
  });
  afterAll(async () => {
    for (const app of apps) await app.stop();
    await Promise.all([origin.close(), auth.close(), redis?.stop()]);
    await directory.remove();
  });

  async function start(at: number): Promise<TestApp> {
    const store = redis ? `store: { type: redis, url: "${redis.url}" }\n` : '';
    const address = `127.0.0.1:${nodes > 1 ? await serverPort() : 0}`;
    const cluster = `cluster: { listen: "${address}", advertise: "http://${address}", secret: "sixteen--letters" }\n`;
    const config = store + (nodes > 1 ? cluster : redis ? 'spool: { shared: true }\n' : '') + ROUTES(auth.url);
    return startTestApp({ origin: origin.url, config, data: join(directory.path, `data-${at}`) });
  }

  /** Each request goes to the next node, so that half of those on uploads are relayed. */
  let turn = 0;
  async function send(
    method: string,
    target: string,
    headers: readonly HeaderLine[],
    body: string | Uint8Array = '',
  ): Promise<WireResponse> {
    const app = apps[turn++ % apps.length]!;
    const response = await requestOnce(app.url, { method, target, headers: [...headers, ...CREDENTIALS], body });
    const token = /\/\.uploads\/([\w-]{32})/.exec(response.header('Location') ?? '')?.[1];
    if (token !== undefined) tokens.add(token);
    return response;
  }

  const lengthOf = (body: string | Uint8Array): HeaderLine => ['Content-Length', `${body.length}`];

  function requestsFor(target: string): OriginRequest[] {
    return origin.requests.filter((request) => request.target === target);
  }

  function expectCredentials(request: OriginRequest | undefined, more: readonly HeaderLine[] = []): void {
    const lines = request?.headers.map(([name, value]) => [name.toLowerCase(), value]);
    expect(lines).toEqual(
      expect.arrayContaining([...CREDENTIALS, ...more].map(([name, value]) => [name.toLowerCase(), value])),
    );
  }

  async function create(dialectName: (typeof DIALECTS)[number], target: string, more: readonly HeaderLine[] = []) {
    const dialect = clientDialect(dialectName);
    const created = await send('POST', target, [...creationLines(dialect, { complete: false }), lengthOf(''), ...more]);
    expect(created.status).toBe(201);
    const { location } = progressOf(dialect, created);
    return new ResumableUpload(
      dialect,
      ({ method, target: path, headers, body }) => send(method, path, headers ?? [], body),
      location!,
    );
  }

  test.each(part(DIALECTS, 4))('version %s: the origin gets every credential', async (name) => {
    for (const target of [`/files/${name}`, `/eager/${name}`, `/gated/${name}`, `/asked/${name}`]) {
      const upload = await create(name, target, [['Referer', `http://app.example/.uploads/${[...tokens][0] ?? ''}`]]);
      const half = await upload.append(FILE.subarray(0, 1000), { offset: 0, complete: false });
      expect(half.status).toBe(upload.dialect.appendedStatus);
      const answer = await upload.append(FILE.subarray(1000), { offset: 1000, complete: true });
      expect([answer.status, answer.header('Set-Cookie')]).toEqual([201, MARKS.setCookie]);
      const added: HeaderLine[] = target.startsWith('/asked') ? [['X-Auth-Token', MARKS.serviceToken]] : [];
      expectCredentials(requestsFor(target)[0], added);
      // A kept answer still has its cookie.
      const kept = await send('GET', `${upload.target}/answer`, []);
      expect([kept.status, kept.header('Set-Cookie')]).toEqual([201, MARKS.setCookie]);
    }
    const open = await create(name, `/files/${name}/open`);
    await open.append(FILE.subarray(0, 10), { offset: 0, complete: false });
  });

  test('undelivered and parked uploads, and ordinary requests, keep theirs too', async () => {
    for (const [target, status] of [
      ['/files/refused', 503],
      ['/files/parked', 401],
    ] as const) {
      const upload = await create('10', target);
      const answer = await upload.append(FILE, { offset: 0, complete: true });
      expect(answer.status).toBe(status);
      // Asked again, it gives what was kept.
      const again = await upload.append('', { offset: FILE.length, complete: true });
      expect(again.status).toBe(status);
    }
    const plain = await send('POST', '/spooled/plain', [lengthOf('plain'), ['Idempotency-Key', 'a-key']], 'plain');
    expect([plain.status, plain.header('Set-Cookie')]).toEqual([201, MARKS.setCookie]);
    expectCredentials(requestsFor('/spooled/plain')[0]);
  });

  test('a repeated creation gets the same Location', async () => {
    const lines = [...creationLines(clientDialect('10'), { complete: false }), lengthOf('')];
    const locations = new Set<string>();
    for (let at = 0; at < 4; at++) {
      const created = await send('POST', '/files/keyed', [
        ...lines,
        ['Idempotency-Key', 'key-of-a-client'],
        ['Host', 'one'],
      ]);
      expect(created.status).toBe(201);
      locations.add(created.header('Location')!);
    }
    expect(locations.size).toBe(1);
    const other = await requestOnce(apps[0]!.url, {
      method: 'POST',
      target: '/files/keyed',
      headers: [...lines, ['Idempotency-Key', 'key-of-a-client']],
      body: '',
    });
    tokens.add(other.header('Location')!.slice(-32));
    expect(locations.has(other.header('Location')!.replace(/^http:\/\/[^/]+/, 'http://one'))).toBe(false);
  });

  test('tus, and parts that are joined', async () => {
    const begin = async (target: string, more: readonly HeaderLine[]): Promise<string> => {
      const created = await send('POST', target, [TUS, lengthOf(''), ...more]);
      expect(created.status).toBe(201);
      return new URL(created.header('Location')!).pathname;
    };
    const patch = (path: string, body: Uint8Array): Promise<WireResponse> =>
      send('PATCH', path, [TUS, STREAM, ['Upload-Offset', '0'], lengthOf(body)], body);
    const whole = await begin('/files/tus', [['Upload-Length', `${FILE.length}`]]);
    expect((await patch(whole, FILE)).header('Set-Cookie')).toBe(MARKS.setCookie);
    if (nodes > 1) return;
    const parts: string[] = [];
    for (const half of [FILE.subarray(0, 1500), FILE.subarray(1500)]) {
      parts.push(
        await begin('/files/joined', [
          ['Upload-Concat', 'partial'],
          ['Upload-Length', `${half.length}`],
        ]),
      );
      expect((await patch(parts.at(-1)!, half)).status).toBe(204);
    }
    const concat = `final;${parts.map((path) => apps[0]!.url + path).join(' ')}`;
    const joined = await begin('/files/joined', [['Upload-Concat', concat]]);
    expect((await send('HEAD', joined, [TUS])).header('Upload-Concat')).toBe(concat);
    expectCredentials(requestsFor('/files/joined')[0]);
  });

  test('a newer request takes an upload over', async () => {
    const upload = await create('10', '/files/taken');
    const app = apps[0]!;
    const stalled = await openRequest('HTTP/1.1', app.url, {
      method: 'PATCH',
      target: upload.target,
      headers: [
        ['Host', 'one'],
        ...appendLines(upload.dialect, { offset: 0, complete: true }),
        ...[...CREDENTIALS, lengthOf(FILE)],
      ],
    });
    await stalled.send(FILE.subarray(0, 1000));
    const spooled = (): Promise<number[]> =>
      Promise.all(apps.map(({ data }) => spooledBytes(data, storedIdOf(upload.target))));
    await until(async () => (await spooled()).some((bytes) => bytes >= 1000), 'the first request to write');
    const offset = await upload.offset();
    expect((await upload.append(FILE.subarray(offset), { offset, complete: true })).status).toBe(201);
    await stalled.close();
    expectCredentials(requestsFor('/files/taken')[0]);
  });

  /** Everything that the proxies leave, by where it is. */
  async function remains(): Promise<Map<string, Buffer>> {
    const found = new Map<string, Buffer>();
    for (const [at, app] of apps.entries()) {
      const read = async (path: string, query = ''): Promise<string> => {
        const request = { method: 'GET', path, query: new URLSearchParams(query), headers: { host: 'localhost' } };
        return (await app.operators.respond(request)).body ?? '';
      };
      found.set(`metrics ${at}`, Buffer.from(await read('/metrics')));
      const list = await read('/uploads', 'limit=1000');
      found.set(`list ${at}`, Buffer.from(list));
      for (const { tag } of (JSON.parse(list) as { uploads: { tag: string }[] }).uploads)
        found.set(`upload ${tag} ${at}`, Buffer.from(await read(`/uploads/${tag}`)));
    }
    // Files come and go as long as a proxy runs.
    for (const [at, app] of apps.splice(0).entries()) {
      await app.stop();
      found.set(`log ${at}`, Buffer.from(JSON.stringify(app.log)));
    }
    for (const name of await readdir(directory.path, { recursive: true, withFileTypes: true })) {
      const path = join(name.parentPath, name.name);
      if (!name.isDirectory()) found.set(path, Buffer.concat([Buffer.from(`${path}\n`), await readFile(path)]));
      else found.set(path, Buffer.from(path));
    }
    if (redis) {
      await redis.cli('save');
      const dump = join((await redis.cli('config', 'get', 'dir')).split('\n')[1]!, 'dump.rdb');
      found.set('dump of Redis', await readFile(dump));
      found.set('keys of Redis', Buffer.from(await redis.cli('--raw', 'keys', '*')));
    }
    return found;
  }

  test('no token and no credential is readable in anything that is left', async () => {
    const found = await remains();
    const secrets = [...SECRETS, ...tokens];
    expect(tokens.size).toBeGreaterThan(12);
    const leaks = [...found].flatMap(([place, bytes]) =>
      secrets.filter((secret) => occurrences(bytes, secret) > 0).map((secret) => `${secret} in ${place}`),
    );
    expect(leaks).toEqual([]);
    // The search finds what is there.
    for (const place of ['log 0', 'list 0'])
      expect(occurrences(found.get(place)!, '/files/refused')).toBeGreaterThan(0);
    const stored = [...found].filter(([place]) => place.startsWith(directory.path) || place === 'dump of Redis');
    expect(stored.some(([, bytes]) => occurrences(bytes, '/files/refused') > 0)).toBe(true);
  });
});

test('a text is found in every spelling', () => {
  const text = 'mark-set-cookie-Tb6n1Rj5';
  expect(spellingsOf(text).length).toBeGreaterThan(6);
  const encoded = [
    text,
    encodeURIComponent(text),
    Buffer.from(text).toString('hex'),
    Buffer.from(text).toString('hex').toUpperCase(),
    ...['', 'a', 'ab', 'abc'].flatMap((before) => {
      const bytes = Buffer.from(`${before}${text} and more`);
      return [bytes.toString('base64'), bytes.toString('base64url')];
    }),
    [...Buffer.from(text)].map((byte) => `%${byte.toString(16)}`).join(''),
  ];
  expect(encoded.filter((one) => occurrences(Buffer.from(`before ${one} after`), text) === 0)).toEqual([]);
  expect(occurrences(Buffer.from('something else entirely'), text)).toBe(0);
});
