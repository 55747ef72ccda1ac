import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { PEER_FIELD } from '../../src/proxy/peer-auth.js';
import { connect, exchangeOver, type Transport, TRANSPORTS } from '../support/client.js';
import { type RecordedRequest, RecordingRelay } from '../support/network.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import { serverPort, temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

// Issue 9, "done when" 2: nothing replayed, neither between nodes nor by clients.
const UPLOAD: HeaderLine[] = [['Upload-Draft-Interop-Version', '10']];
const PART: HeaderLine = ['Content-Type', 'application/partial-upload'];
const BODY = 'hello world';

/** One of two nodes, which others reach through somebody who records everything. */
interface Node {
  app: TestApp;
  readonly port: number;
  readonly relay: RecordingRelay;
  readonly data: string;
  restart(): Promise<void>;
}

let redis: RedisServer;
let origin: TestOrigin;
let auth: TestOrigin;
let directory: TemporaryDirectory;
let [owner, other]: [Node, Node] = [undefined!, undefined!];
/** Added to the time of the wall that nodes which were started under it see. */
let aheadMs = 0;
const realNow = Date.now;

async function startNode(name: string): Promise<Node> {
  const port = await serverPort();
  const relay = await RecordingRelay.start(port);
  const data = join(directory.path, name);
  const config = `
store: { type: redis, url: '${redis.url}' }
cluster: { listen: '127.0.0.1:${port}', advertise: '${relay.url}', secret: for-tests-only-7f1c93 }
authorize: { forward_auth: { url: '${auth.url}', copy_headers: [X-User], principal_header: X-User } }
bind_to: principal
delivery: { client_keys: true }
`;
  const start = (): Promise<TestApp> => startTestApp({ origin: origin.url, config, data });
  const node: Node = {
    app: await start(),
    port,
    relay,
    data,
    restart: async () => {
      await node.app.stop();
      node.app = await start();
    },
  };
  return node;
}

beforeAll(async () => {
  Date.now = () => realNow() + aheadMs;
  redis = await startRedis();
  origin = await startTestOrigin({ status: 201, body: 'made' });
  auth = await startTestOrigin((request) => {
    const user = request.header('Authorization');
    return user === undefined ? { status: 401 } : { status: 200, headers: [['X-User', user]] };
  });
  directory = await temporaryDirectory('rufh-replays-');
  owner = await startNode('owner');
  other = await startNode('other');
});
afterAll(async () => {
  Date.now = realNow;
  for (const { app, relay } of [owner, other]) {
    await app.stop();
    await relay.stop();
  }
  await Promise.all([redis.stop(), origin.close(), auth.close()]);
  await directory.remove();
});

interface Ask {
  readonly method: string;
  readonly target: string;
  readonly user?: string | undefined;
  readonly headers?: readonly HeaderLine[];
  readonly body?: string;
}

function ask(
  node: Node,
  { user = 'alice', ...request }: Ask,
  transport: Transport = 'HTTP/1.1',
): Promise<WireResponse> {
  const credentials: HeaderLine[] = user === '' ? [] : [['Authorization', user]];
  const headers = [...UPLOAD, ...(request.headers ?? []), ...credentials];
  return exchangeOver(transport, node.app.url, { ...request, headers });
}

/** Creates an upload of a part of the body, or all of it, with a key of its client's own if there is one. */
async function create(node: Node, part: string, { user = 'alice', key = '', target = '/files/a' } = {}) {
  const isComplete = part === BODY;
  const headers: HeaderLine[] = [
    ['Upload-Complete', isComplete ? '?1' : '?0'],
    ['Upload-Length', `${BODY.length}`],
    ...(key === '' ? [] : ([['Idempotency-Key', `"${key}"`]] as const)),
  ];
  return ask(node, { method: 'POST', target, user, headers, body: part });
}

const pathOf = (created: WireResponse): string =>
  new URL((created.header('Location') ?? created.interims[0]?.header('Location'))!).pathname;

function append(node: Node, target: string, offset: number, part: string, user = 'alice', transport?: Transport) {
  const isLast = offset + part.length === BODY.length;
  const headers: HeaderLine[] = [['Upload-Offset', `${offset}`], ['Upload-Complete', isLast ? '?1' : '?0'], PART];
  return ask(node, { method: 'PATCH', target, user, headers, body: part }, transport);
}

/** All that a replay could change: what clients see of the uploads, what the disks hold, what the origin was sent. */
async function state(paths: readonly string[]): Promise<unknown> {
  const shown = [];
  for (const target of paths)
    for (const node of [owner, other]) {
      const { status, headerLines } = await ask(node, { method: 'HEAD', target });
      shown.push([target, status, headerLines.filter(([name]) => /^upload-(?:offset|length|complete)$/i.test(name))]);
    }
  const disks = await Promise.all([owner, other].map(({ data }) => readdir(join(data, 'spool'), { recursive: true })));
  return { shown, disks: disks.map((names) => names.sort()), requests: origin.requests.length };
}

const valueOf = ({ headers }: RecordedRequest): string =>
  headers.find(([name]) => name.toLowerCase() === PEER_FIELD.toLowerCase())?.[1] ?? '';

const isSignature = ([name]: HeaderLine): boolean => name.toLowerCase() === PEER_FIELD.toLowerCase();

function withHeaders(request: RecordedRequest, change: (line: HeaderLine) => HeaderLine[]): RecordedRequest {
  return { ...request, headers: request.headers.flatMap(change) };
}

/** Says a part of the signature differently. */
function resigned(request: RecordedRequest, part: number, change: (was: string) => string): RecordedRequest {
  const value = valueOf(request)
    .split('.')
    .map((was, at) => (at === part ? change(was) : was))
    .join('.');
  return withHeaders(request, (line) => (isSignature(line) ? [[line[0], value]] : [line]));
}

function forOther(claim: string): string {
  const told = JSON.parse(Buffer.from(claim, 'base64url').toString()) as { kind: string };
  const kind = told.kind === 'files' ? 'request' : 'files';
  return Buffer.from(JSON.stringify({ ...told, kind })).toString('base64url');
}

const ELSEWHERE = `/.uploads/${'A'.repeat(32)}`;
const flipped = (body: Buffer): Buffer => Buffer.from(body.map((byte) => byte ^ 1));

/** What somebody may make of a request that was recorded, and why it is not believed. */
const CHANGES: readonly (readonly [
  name: string,
  why: string,
  change: (request: RecordedRequest) => RecordedRequest,
])[] = [
  ['as it is', 'replayed', (request) => request],
  ['with other content of the same length', 'replayed', (request) => ({ ...request, body: flipped(request.body) })],
  ['with a trailer', 'replayed', (request) => ({ ...request, trailers: request.isChunked ? [['X-A', 'b']] : [] })],
  ['by another method', 'forged', (request) => ({ ...request, method: request.method === 'PUT' ? 'PATCH' : 'PUT' })],
  ['as a DELETE', 'forged', (request) => ({ ...request, method: request.method === 'DELETE' ? 'HEAD' : 'DELETE' })],
  ['for another target', 'forged', (request) => ({ ...request, target: ELSEWHERE })],
  ['for a query', 'forged', (request) => ({ ...request, target: `${request.target}?a` })],
  [
    'with more content',
    'forged',
    (request) =>
      withHeaders({ ...request, body: Buffer.concat([request.body, Buffer.from('!')]), isChunked: false }, (line) =>
        /^(?:content-length|transfer-encoding)$/i.test(line[0]) ? [] : [line],
      ),
  ],
  [
    'with another offset',
    'forged',
    (request) =>
      withHeaders(request, (line) => [
        /^upload-offset$/i.test(line[0]) ? [line[0], '0'] : line,
        ...(isSignature(line) ? ([['Upload-Offset', '3']] as const) : []),
      ]),
  ],
  [
    'with other credentials',
    'forged',
    (request) => withHeaders(request, (line) => (isSignature(line) ? [['Authorization', 'root'], line] : [line])),
  ],
  ['without the first field', 'forged', (request) => ({ ...request, headers: request.headers.slice(1) })],
  ['as if it was signed now', 'forged', (request) => resigned(request, 1, () => `${Date.now()}`)],
  ['with another nonce', 'forged', (request) => resigned(request, 2, () => 'A'.repeat(16))],
  ['as another kind of claim', 'forged', (request) => resigned(request, 3, forOther)],
  ['signed twice', 'forged', (request) => withHeaders(request, (line) => (isSignature(line) ? [line, line] : [line]))],
  ['unsigned', 'unsigned', (request) => withHeaders(request, (line) => (isSignature(line) ? [] : [line]))],
];

/** Sends it and tells the status and why it is not believed. */
async function replay(port: number, request: RecordedRequest): Promise<readonly [number, string | undefined]> {
  const { method, target, headers, body, isChunked, trailers } = request;
  const isFramed = headers.some(([name]) => /^(?:content-length|transfer-encoding)$/i.test(name));
  const client = await connect(`http://127.0.0.1:${port}`);
  client.socket.on('error', () => undefined);
  const lines = isFramed || body.length === 0 ? headers : [...headers, ['Content-Length', `${body.length}`] as const];
  await client.sendHead(method, target, lines);
  if (isChunked && body.length > 0) await client.sendChunk(body);
  if (isChunked) await client.endChunks(trailers);
  else await client.send(body);
  const answer = await client.readFinal();
  client.destroy();
  return [answer.status, answer.header(PEER_FIELD)];
}

/** Replays all in this way, one after the other. */
async function replayAll(
  port: number,
  requests: readonly RecordedRequest[],
  change: (request: RecordedRequest) => RecordedRequest = (request) => request,
) {
  const verdicts = new Map<string, readonly [number, string | undefined]>();
  for (const request of requests) {
    const verdict = await replay(port, change(request));
    verdicts.set(JSON.stringify(verdict), verdict);
  }
  return [...verdicts.values()];
}

describe('between two nodes', () => {
  /** What the other node has asked the owner, of every kind, and the uploads that are left. */
  let recorded: RecordedRequest[];
  const paths: string[] = [];

  beforeAll(async () => {
    for (const transport of TRANSPORTS) {
      const target = pathOf(await create(owner, 'hello'));
      const head = await ask(other, { method: 'HEAD', target }, transport);
      expect([head.status, head.header('Upload-Offset')]).toEqual([204, '5']);
      await ask(other, { method: 'OPTIONS', target }, transport);
      await ask(other, { method: 'GET', target: `${target}/status` }, transport);
      expect((await append(other, target, 5, ' wo', 'alice', transport)).status).toBe(204);
      expect((await append(other, target, 8, 'rld', 'alice', transport)).status).toBe(201);
      // Its end once more, and the answer that was kept.
      expect((await append(other, target, 10, 'd', 'alice', transport)).status).toBe(201);
      expect((await ask(other, { method: 'GET', target: `${target}/answer` }, transport)).body.toString()).toBe('made');
      const cancelled = pathOf(await create(owner, 'hello'));
      expect((await ask(other, { method: 'DELETE', target: cancelled }, transport)).status).toBe(204);
      paths.push(target, cancelled);
    }
    // Without a length, and with a key that finds an upload of the owner's.
    const open = pathOf(await create(owner, 'hel', { key: 'of-alice' }));
    await chunked(other, open, 3, 'lo');
    expect(pathOf(await create(other, 'hello wor', { key: 'of-alice' }))).toBe(open);
    paths.push(open);
    // What is moved, with one try that fails: its files are taken back.
    const moved = pathOf(await create(other, 'hello w'));
    owner.relay.breakNext((bytes) => /^PUT \/\.peer\/[^/ ]+ HTTP/.test(bytes));
    await drain(other);
    expect((await readdir(join(other.data, 'spool'))).filter((name) => moved.endsWith(name))).toEqual([]);
    paths.push(moved);
    recorded = (await owner.relay.requests()).filter((request) => valueOf(request) !== '');
  });

  async function chunked(node: Node, target: string, offset: number, part: string): Promise<void> {
    const client = await connect(node.app.url);
    const headers: HeaderLine[] = [...UPLOAD, ['Upload-Offset', `${offset}`], ['Upload-Complete', '?0'], PART];
    await client.sendHead('PATCH', target, [...headers, ['Authorization', 'alice'], ['Transfer-Encoding', 'chunked']]);
    await client.sendChunk(part);
    await client.endChunks();
    expect((await client.readFinal()).status).toBe(204);
    client.destroy();
  }

  async function drain({ app }: Node): Promise<void> {
    const query = new URLSearchParams('move=true');
    const request = { path: '/drain', query, headers: { host: 'localhost' } };
    await app.operators.respond({ ...request, method: 'POST' });
    await until(async () => {
      const { body = '' } = await app.operators.respond({ ...request, method: 'GET' });
      return (JSON.parse(body) as { move?: { isDone?: boolean } }).move?.isDone;
    }, 'all uploads to be moved');
  }

  test('every kind of request was recorded', () => {
    const kindOf = ({ method, target, isChunked }: RecordedRequest): string =>
      `${method} ${target.replace(/[A-Za-z0-9_-]{32,43}/, 'ID').replace(/(?<=ID\/)chunk.*/, 'FILE')}${isChunked ? ' chunked' : ''}`;
    expect([...new Set(recorded.map(kindOf))].sort()).toEqual([
      'DELETE /.peer/ID',
      'DELETE /.uploads/ID',
      'GET /.uploads/ID/answer',
      'GET /.uploads/ID/status',
      'HEAD /.uploads/ID',
      'OPTIONS /.uploads/ID',
      'PATCH /.uploads/ID',
      'PATCH /.uploads/ID chunked',
      'POST /files/a',
      'PUT /.peer/ID',
      'PUT /.peer/ID/FILE',
    ]);
  });

  test.each(CHANGES)('replayed %s they are refused as %s, and nothing changes', async (_, why, change) => {
    const before = await state(paths);
    expect(await replayAll(owner.port, recorded, change)).toEqual([[403, why]]);
    expect(await state(paths)).toEqual(before);
  });

  test('replayed to another node they are not meant for it, and nothing changes', async () => {
    const before = await state(paths);
    expect(await replayAll(other.port, recorded)).toEqual([[403, 'misdirected']]);
    expect(await state(paths)).toEqual(before);
  });

  test('one that did not arrive can be used once, however often it is sent at the same time', async () => {
    owner.relay.hold();
    const before = (await owner.relay.requests()).length;
    const asking = ask(other, { method: 'HEAD', target: paths[0]! }).catch(() => undefined);
    const [caught] = await until(async () => {
      const all = await owner.relay.requests();
      return all.length > before && all.slice(-1);
    }, 'a request to be caught');
    const verdicts = await Promise.all([1, 2, 3, 4].map(() => replay(owner.port, caught!)));
    expect(verdicts.filter(([status]) => status === 403)).toEqual(Array(3).fill([403, 'replayed']));
    expect(verdicts.filter(([status]) => status === 204)).toHaveLength(1);
    // Whoever waits for an answer that was given to another gets none.
    owner.relay.hold();
    owner.relay.release();
    await asking;
  });

  test.each([25_000, -25_000, 45_000, -45_000])('replayed while the clocks are %d ms apart', async (ms) => {
    const before = await state(paths);
    aheadMs = ms;
    try {
      for (const [status, why] of await replayAll(owner.port, recorded)) {
        expect(status).toBe(403);
        // What is older than the window by now is not even looked up.
        expect(Math.abs(ms) > 30_000 && ms > 0 ? ['old'] : ['replayed', 'old']).toContain(why);
      }
    } finally {
      aheadMs = 0;
    }
    expect(await state(paths)).toEqual(before);
  });

  test('replayed to the node that was restarted meanwhile they are too old, and nothing changes', async () => {
    await owner.restart();
    await until(async () => (await ask(other, { method: 'HEAD', target: paths[0]! })).status === 204, 'the owner');
    const before = await state(paths);
    expect(await replayAll(owner.port, recorded)).toEqual([[403, 'old']]);
    expect(await state(paths)).toEqual(before);
  });
});

describe('by clients', () => {
  /** Whoever else knows an upload's URL. */
  const STRANGERS = ['bob', ''];

  test.each(TRANSPORTS)('what a client was given is of no use to another principal, over %s', async (transport) => {
    const begun = pathOf(await create(owner, 'hello'));
    const answered = pathOf(await create(owner, BODY));
    const before = await state([begun, answered]);
    const asks = (user: string, target: string): Ask[] => [
      { method: 'HEAD', target, user },
      { method: 'DELETE', target, user },
      { method: 'GET', target: `${target}/status`, user },
      { method: 'GET', target: `${target}/answer`, user },
    ];
    for (const user of STRANGERS)
      for (const node of [owner, other])
        for (const target of [begun, answered]) {
          for (const request of asks(user, target)) expect((await ask(node, request, transport)).status).toBe(404);
          expect((await append(node, target, 5, ' world', user, transport)).status).toBe(404);
          expect((await append(node, target, 10, 'd', user, transport)).status).toBe(404);
        }
    expect(await state([begun, answered])).toEqual(before);
  });

  test('a key of one principal finds nothing of another', async () => {
    const ofAlice = await create(owner, 'hello', { key: 'shared' });
    const ofBob = await create(owner, 'hello', { key: 'shared', user: 'bob' });
    expect([ofAlice.status, ofBob.status, pathOf(ofAlice) === pathOf(ofBob)]).toEqual([201, 201, false]);
    expect((await create(owner, 'hello', { key: 'shared', user: '' })).status).toBe(401);
    expect(pathOf(await create(owner, 'hello', { key: 'shared' }))).toBe(pathOf(ofAlice));
  });

  test('a creation that is repeated, at once and later, is one POST at the origin', async () => {
    const at = (target: string): number => origin.requests.filter((request) => request.target === target).length;
    const again = { key: 'repeated', target: '/files/repeated' };
    const once = await Promise.all([1, 2, 3, 4].map(() => create(owner, BODY, again)));
    const later = [await create(owner, BODY, again), await create(owner, BODY, again)];
    expect([...once, ...later].map(({ status, body }) => [status, body.toString()])).toEqual(
      Array(6).fill([201, 'made']),
    );
    expect(at('/files/repeated')).toBe(1);
  });

  test('a last append that is repeated, at once and later, on every node, is one POST at the origin', async () => {
    const path = pathOf(await create(owner, 'hello', { target: '/files/end' }));
    const last = (node: Node): Promise<WireResponse | undefined> =>
      append(node, path, 5, ' world').catch(() => undefined);
    await Promise.all([owner, other, owner, other].map(last));
    const kept = async (node: Node): Promise<string> => (await append(node, path, 10, 'd')).body.toString();
    expect([await kept(owner), await kept(other), await kept(owner)]).toEqual(['made', 'made', 'made']);
    await last(owner);
    expect(origin.requests.filter(({ target }) => target === '/files/end')).toHaveLength(1);
  });
});
