import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { startTestApp, type TestApp } from '../support/app.js';
import { startFakeOrigin, type FakeOrigin } from '../support/fake-origin.js';
import { connectH2, H2Exchange } from '../support/h2-client.js';
import { TRANSPORTS, type Transport } from '../support/open-request.js';
import { connect } from '../support/raw-client.js';

let auth: FakeOrigin;
let origin: FakeOrigin;
let app: TestApp;

beforeAll(async () => {
  origin = await startFakeOrigin({ status: 200, body: 'made' });
  auth = await startFakeOrigin({ status: 200, headers: [['Remote-User', 'alice']] });
  const config = `
authorize: { forward_auth: { url: "${auth.url}", copy_headers: [Remote-User], principal_header: X-Princ } }
routes:
  - match: { path: /eager/** }
    delivery: { mode: eager }
  - match: { path: /plain/** }
    plain_bodies: spool
  - match: { path: /open/** }
    authorize: { forward_auth: null }
`;
  app = await startTestApp({ origin: origin.url, config });
});

afterAll(async () => {
  await app.stop();
  await origin.close();
  await auth.close();
});

beforeEach(() => {
  origin.requests.length = 0;
});

/** What no client may say, in its head or behind its body, on a guarded route and on others. */
const OF_THE_SERVICE = ['Remote-User', 'Remote_User', 'REMOTE.USER', 'X-Princ', 'x_princ'];
const OF_NOBODY = [
  'X_Under',
  'Forwarded',
  'X-Forwarded-For',
  'X.Forwarded.For',
  'X-Forwarded-Host',
  'X-Forwarded-Proto',
  'X-Forwarded-Port',
  'X-Forwarded-Uri',
  'X-Real-IP',
  'X-Original-URL',
  'X-Rewrite-URL',
  'X-Script-Name',
  'Via',
  'X-HTTP-Method-Override',
  'HTTP-Method-Override',
  'X-HTTP-Verb',
  'Destination',
  'Authorization',
  'Cookie',
];

async function send(transport: Transport, target: string, headers: HeaderLine[], trailers: HeaderLine[]) {
  if (transport === 'HTTP/1.1') {
    const announced = trailers.map(([name]) => name).join(', ');
    const client = await connect(app.url);
    await client.sendHead('POST', target, [
      ['Host', 'api'],
      ...headers,
      ['Trailer', announced],
      ['Transfer-Encoding', 'chunked'],
    ]);
    await client.sendChunk('hello');
    await client.endChunks(trailers);
    const { status } = await client.readFinal();
    client.destroy();
    return status;
  }
  const client = await connectH2(app.url);
  const fields = Object.fromEntries(headers.map(([name, value]) => [name.toLowerCase(), value]));
  const stream = client.session.request({ ':method': 'POST', ':path': target, ...fields }, { waitForTrailers: true });
  stream.once('wantTrailers', () => stream.sendTrailers(Object.fromEntries(trailers)));
  stream.end('hello');
  const { status } = await new H2Exchange(stream, 5000).readFinal();
  await client.close();
  return status;
}

/** Every way that trailers take to an origin. */
const WAYS: readonly (readonly [way: string, path: string, headers: HeaderLine[]])[] = [
  ['passed through', '/pass', []],
  ['of an ordinary body in the spool', '/plain', []],
  ['of an upload', '/upload', [['Upload-Complete', '?1']]],
  ['of an eager upload', '/eager', [['Upload-Complete', '?1']]],
];

describe.each(TRANSPORTS)('over %s, trailers', (transport) => {
  test.each(WAYS)(
    '%s say nothing that is for the service, for proxies or for the head',
    async (_way, path, headers) => {
      const forged = [...OF_THE_SERVICE, ...OF_NOBODY].map((name): HeaderLine => [name, 'forged']);
      expect(await send(transport, `${path}/x`, headers, [['X-Sum', '7'], ...forged, ['X-Other', '8']])).toBe(200);
      const [got] = await origin.waitForRequests(1);
      expect(got!.body.toString()).toBe('hello');
      const names = got!.trailers.map(([name, value]) => [name.toLowerCase(), value]);
      expect(names).toEqual([
        ['x-sum', '7'],
        ['x-other', '8'],
      ]);
      expect(got!.header('Remote-User')).toBe('alice');
      // Also announced are only those that come.
      expect(got!.header('Trailer')?.toLowerCase() ?? 'x-sum, x-other').toBe('x-sum, x-other');
    },
  );

  test('on an open route say nothing of it either, because another route asks the service', async () => {
    const forged = [...OF_THE_SERVICE, ...OF_NOBODY].map((name): HeaderLine => [name, 'forged']);
    expect(await send(transport, '/open/x', [['Upload-Complete', '?1']], [['X-Sum', '7'], ...forged])).toBe(200);
    const [got] = await origin.waitForRequests(1);
    expect(got!.trailers.map(([name, value]) => [name.toLowerCase(), value])).toEqual([['x-sum', '7']]);
  });
});
