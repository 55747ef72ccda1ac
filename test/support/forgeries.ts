import type { HeaderLine } from '../../src/model/headers.js';
import { connect, exchangeOver, requestOnce, type Transport, WANTED } from './client.js';
import { block, frame } from './hostile-http2.js';
import { connectH2, H2Exchange } from './http2-client.js';
import { seededRandom } from './temporary.js';

/** Stands in everything that a client has made up. */
export const MARK = 'forged';

/** Credentials of somebody who is let in, of somebody who is not, and none. */
const CREDENTIALS = { good: 'good', bad: 'bad', none: undefined } as const;

/** What the authorization service says of a user, and nobody else. */
export const IDENTITY: readonly HeaderLine[] = [
  ['Remote-User', 'alice'],
  ['X-Forwarded-Email', 'alice@example'],
  ['X-Auth-Groups', 'staff'],
];
export const PRINCIPAL: HeaderLine = ['X-Principal', 'alice'];

/** Names of such services that the routes here do not copy. */
const OF_OTHER_SERVICES = [
  'Remote-Groups',
  'X-Forwarded-Preferred-Username',
  'X-Auth-Request-User',
  'X-Authentik-Username',
  'X-WebAuth-User',
];

const OF_THE_SERVICE = [...[...IDENTITY, PRINCIPAL].map(([name]) => name), ...OF_OTHER_SERVICES];
/** Of these a trusted proxy may say what it likes. */
const OF_PROXIES = ['Forwarded', ...['For', 'Host', 'Proto', 'Port', 'Prefix'].map((what) => `X-Forwarded-${what}`)];
/** Names by which fronts say that a request was for another target. */
export const OTHER_TARGETS = [
  'X-Forwarded-Uri',
  'X-Forwarded-Method',
  'X-Forwarded-Path',
  'X-Original-URL',
  'X-Original-URI',
  'X-Original-Method',
  'X-Rewrite-URL',
];
const OF_THE_TARGET = [...OTHER_TARGETS, 'X-Original-Host', 'X-Real-IP', 'X-Script-Name'];
/** Its word about where a request came from is its own. */
const OF_TRUSTED_PROXIES = new Set([...OF_PROXIES, 'X-Original-Host', 'X-Real-IP', 'X-Script-Name']);

/** Letters of a field name that applications may take for `-` (RFC 9110 §5.6.2). */
const SEPARATORS = ['-', '_', '.', '!', '~', "'", '*', '+', '$', '%', '&', '^', '`', '|', '#'];

export type Peer = 'a stranger' | 'a trusted proxy';

/** Every name in every spelling, as far as this peer may not say it. */
export function forgedNames(peer: Peer): string[] {
  const names = [...OF_THE_SERVICE, ...OF_PROXIES, ...OF_THE_TARGET].filter(
    (name) => peer === 'a stranger' || !OF_TRUSTED_PROXIES.has(name),
  );
  return names.flatMap((name) => SEPARATORS.flatMap((separator) => spelt(name.replaceAll('-', separator))));
}

function spelt(name: string): string[] {
  const mixed = Array.from(name, (letter, at) => (at % 2 === 0 ? letter.toLowerCase() : letter.toUpperCase())).join('');
  return [...new Set([name, name.toLowerCase(), name.toUpperCase(), mixed])];
}

/** One request with things made up in it. */
export interface Forgery {
  readonly number: number;
  readonly kind: Kind;
  readonly transport: Transport;
  readonly credentials: keyof typeof CREDENTIALS;
  readonly fields: readonly HeaderLine[];
}

type Kind = keyof typeof KINDS;

/** So many fields that are made up stand in one request. */
const FIELDS_EACH = 8;

/** Every kind over every transport with every kind of credentials, and so often that every name in every spelling comes up. */
export function* forgeries(peer: Peer, seed: number, least: number): Generator<Forgery> {
  const random = seededRandom(seed);
  const names = forgedNames(peer).sort(() => random() - 0.5);
  const shapes = Object.keys(KINDS).flatMap((kind) =>
    ((KINDS[kind as Kind] as KindOfRequest).only ?? (['HTTP/1.1', 'HTTP/2'] as const)).flatMap((transport) =>
      (['good', 'bad', 'good', 'none'] as const).map((credentials) => ({ kind: kind as Kind, transport, credentials })),
    ),
  );
  const count = Math.max(least, shapes.length, Math.ceil(names.length / FIELDS_EACH));
  for (let number = 0; number < count; number++) {
    const own = Array.from({ length: FIELDS_EACH }, (_, at) => names[(number * FIELDS_EACH + at) % names.length]!);
    const twice = [...own, ...own.slice(0, 2), own[0]!.toLowerCase()];
    const fields = twice.map((name, at): HeaderLine => [name, `${MARK}-${number}-${at}`]);
    yield { number, ...shapes[number % shapes.length]!, fields };
  }
}

interface KindOfRequest {
  readonly only?: readonly Transport[];
  /** Who is let in is seen at the origin. */
  readonly reachesOrigin: boolean;
  readonly play: (url: string, forgery: Forgery, lines: HeaderLine[]) => Promise<unknown>;
}

const UPLOAD: HeaderLine[] = [['Upload-Draft-Interop-Version', '10']];
const TUS_CREATION: HeaderLine[] = [
  ['Tus-Resumable', '1.0.0'],
  ['Upload-Length', '5'],
  ['Content-Type', 'application/offset+octet-stream'],
];

const COMPLETE: HeaderLine[] = [...UPLOAD, ['Upload-Complete', '?1']];
const CHUNKED: HeaderLine = ['Transfer-Encoding', 'chunked'];

function plain(method: string, target: string, own: HeaderLine[] = [], body?: string): KindOfRequest {
  return {
    reachesOrigin: true,
    play: (url, { transport }, lines) =>
      exchangeOver(transport, url, { method, target, headers: [...own, ...lines], body }),
  };
}

/** All that a client may send. */
export const KINDS = {
  get: plain('GET', '/files/a?b=c'),
  head: plain('HEAD', '/files/a'),
  delete: plain('DELETE', '/files/a'),
  propfind: plain('PROPFIND', '/files/a'),
  options: plain('OPTIONS', '/files/a'),
  preflight: plain('OPTIONS', '/files/a', [['Access-Control-Request-Method', 'POST']]),
  post: plain('POST', '/files/a', [], 'hello'),
  put: plain('PUT', '/files/a', [], 'hello'),
  spooled: plain('POST', '/spooled/a', [], 'hello'),
  tus: plain('POST', '/files/a', TUS_CREATION, 'hello'),
  unknown: plain('POST', '/files/a', [['Upload-Draft-Interop-Version', '99'], ...COMPLETE.slice(1)], 'hello'),
  upload: plain('POST', '/files/a', COMPLETE, 'hello'),
  eager: plain('POST', '/eager/a', COMPLETE, 'hello'),
  asked: plain('POST', '/asked/a', COMPLETE, 'hello'),
  form: plain('POST', '/form/a', COMPLETE, 'hello'),
  bound: { reachesOrigin: true, play: (url, forgery, lines) => appended(url, '/bound/a', forgery, lines) },
  append: { reachesOrigin: true, play: (url, forgery, lines) => appended(url, '/files/a', forgery, lines) },
  pages: { reachesOrigin: false, play: looked },
  trailers: { reachesOrigin: true, play: withTrailers('/files/a', []) },
  'trailers of an upload': { reachesOrigin: true, play: withTrailers('/files/a', COMPLETE) },
  'trailers of what is spooled': { reachesOrigin: true, play: withTrailers('/spooled/a', []) },
  upgrade: {
    only: ['HTTP/1.1'],
    reachesOrigin: true,
    play: (url, _, lines) => requestOnce(url, { method: 'GET', target: '/files/a', headers: [...WANTED, ...lines] }),
  },
  'absolute form': {
    only: ['HTTP/1.1'],
    reachesOrigin: true,
    play: (url, _, lines) =>
      requestOnce(url, {
        method: 'GET',
        target: 'http://api/files/a',
        headers: [['Host', `${MARK}.example`], ...lines],
      }),
  },
  'HTTP/1.0': {
    only: ['HTTP/1.1'],
    reachesOrigin: true,
    play: async (url, _, lines) => {
      const client = await connect(url);
      await client.send(`GET /files/a HTTP/1.0\r\n${text([['Host', 'api'], ...lines])}\r\n`);
      await client.ended();
    },
  },
  'named by Connection': {
    only: ['HTTP/1.1'],
    reachesOrigin: true,
    play: (url, { fields }, lines) => {
      const names = [...fields, ...IDENTITY, PRINCIPAL].map(([name]) => name).join(', ');
      return requestOnce(url, { method: 'GET', target: '/files/a', headers: [['Connection', names], ...lines] });
    },
  },
  'pipelined behind a body': {
    only: ['HTTP/1.1'],
    reachesOrigin: true,
    play: async (url, _, lines) => {
      const client = await connect(url);
      const all = text([['Host', 'api'], ...lines]);
      await client.send(`POST /files/a HTTP/1.1\r\nContent-Length: 5\r\n${all}\r\nhello`);
      await client.send(`GET /files/a HTTP/1.1\r\n${all}\r\n`);
      await client.readFinal();
      await client.readFinal();
      client.destroy();
    },
  },
  /** RFC 9113 §8.3: other pseudo-fields than those that exist, one twice, one behind a field, a field in capitals. */
  'pseudo-fields': { only: ['HTTP/2'], reachesOrigin: false, play: malformed },
} satisfies Record<string, KindOfRequest>;

/** Plays it to its end, whatever comes of it. */
export async function play(url: string, forgery: Forgery): Promise<void> {
  const { kind, credentials, number, fields } = forgery;
  const authorization = CREDENTIALS[credentials];
  const own: HeaderLine[] = [
    ['X-Number', `${number}`],
    ...(authorization === undefined ? [] : ([['Authorization', authorization]] as const)),
  ];
  await (KINDS[kind] as KindOfRequest).play(url, forgery, [...own, ...fields]);
}

async function appended(url: string, target: string, { transport }: Forgery, lines: HeaderLine[]): Promise<void> {
  const creation = {
    method: 'POST',
    target,
    headers: [...UPLOAD, ['Upload-Complete', '?0'], ...lines] as HeaderLine[],
  };
  const created = await exchangeOver(transport, url, { ...creation, body: 'hel' });
  const location = created.header('Location');
  if (location === undefined) return;
  const upload = new URL(location, url).pathname;
  for (const method of ['HEAD', 'OPTIONS'])
    await exchangeOver(transport, url, { method, target: upload, headers: [...UPLOAD, ...lines] });
  const headers: HeaderLine[] = [
    ...COMPLETE,
    ['Upload-Offset', '3'],
    ['Content-Type', 'application/partial-upload'],
    ...lines,
  ];
  await exchangeOver(transport, url, { method: 'PATCH', target: upload, headers, body: 'lo' });
  await exchangeOver(transport, url, { method: 'DELETE', target: upload, headers: [...UPLOAD, ...lines] });
}

/** Of an upload that there is, and of one that there is not. */
async function looked(url: string, { transport }: Forgery, lines: HeaderLine[]): Promise<void> {
  for (const target of [`/.uploads/${'A'.repeat(32)}`, '/.uploads/x/answer', `/.uploads/${'A'.repeat(32)}/status`])
    for (const method of ['GET', 'HEAD', 'DELETE', 'OPTIONS'])
      await exchangeOver(transport, url, { method, target, headers: [...UPLOAD, ...lines] });
}

/** Everything made up stands behind the body. */
function withTrailers(target: string, own: HeaderLine[]): KindOfRequest['play'] {
  return async (url, { transport, fields }, lines) => {
    const head = lines.filter((line) => !fields.includes(line));
    if (transport === 'HTTP/1.1') {
      const client = await connect(url);
      await client.sendHead('POST', target, [...own, ...head, CHUNKED]);
      await client.sendChunk('hello');
      await client.endChunks(fields);
      await client.readFinal();
      client.destroy();
      return;
    }
    const client = await connectH2(url);
    const named = Object.fromEntries([...own, ...head].map(([name, value]) => [name.toLowerCase(), value]));
    const stream = client.session.request(
      { ':method': 'POST', ':path': target, ':authority': 'api', ...named },
      { waitForTrailers: true },
    );
    const trailers = Object.fromEntries(fields.map(([name, value]) => [name.toLowerCase(), value]));
    stream.once('wantTrailers', () => stream.sendTrailers(trailers));
    const exchange = new H2Exchange(stream, 20_000);
    stream.end('hello');
    await exchange.readFinal();
    await client.close();
  };
}

const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
const [HEADERS, SETTINGS, GOAWAY] = [1, 4, 7];
const END = 0x5;

async function malformed(url: string, { number, fields }: Forgery, lines: HeaderLine[]): Promise<void> {
  const good: HeaderLine[] = [
    [':method', 'GET'],
    [':scheme', 'http'],
    [':authority', 'api'],
    [':path', '/files/a'],
    ...lines.filter((line) => !fields.includes(line)).map(([name, value]): HeaderLine => [name.toLowerCase(), value]),
  ];
  const [name, value] = fields[0]!;
  const variants: HeaderLine[][] = [
    [[`:${name.toLowerCase()}`, value], ...good],
    [...good, [name.toUpperCase(), value]],
    [...good, [':path', `/${MARK}`]],
    [[':authority', `${MARK}.example`], ...good],
    [...good, ['connection', name], [name.toLowerCase(), value]],
    [...good, [`${name.toLowerCase()}\r\nx-smuggled`, value]],
    [...good, ['x-a', `b\r\n${name}: ${value}`]],
  ];
  const client = await connect(url);
  client.socket.on('error', () => undefined).resume();
  const request = frame(HEADERS, END, 1, block(variants[number % variants.length]!));
  await client.send(Buffer.from(`${PREFACE}${frame(SETTINGS, 0, 0, '')}${request}`, 'latin1'));
  await client.send(Buffer.from(frame(GOAWAY, 0, 0, '\0'.repeat(8)), 'latin1'));
  await client.ended();
}

function text(lines: readonly HeaderLine[]): string {
  return lines.map(([name, value]) => `${name}: ${value}\r\n`).join('');
}
