import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { exchangeOver, openRequest, type OpenRequest, type Transport, TRANSPORTS } from '../support/client.js';
import { type RawExchange, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { appendLines, clientDialect, creationLines } from '../support/resumable-client.js';
import { until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';

// Issue 9: the origin's interim responses reach whoever waits for its answer; and content that is wanted as it comes (RFC 10036).
const CONFIG = `
routes:
  - match: { path: /eager/** }
    delivery: { mode: eager }
  - match: { path: /one/** }
    delivery: { mode: eager, concurrency: 2 }
    origin: ORIGIN
  - match: { path: /gated/** }
    delivery: { gate: { command: ["true"] } }
  - match: { path: /single/** }
    delivery: { mode: eager, concurrency: 1 }
  - match: { path: /spooled/** }
    plain_bodies: spool
  - match: { path: /never/** }
  - match: { path: /** }
`;
const DIALECT = clientDialect('10');
const BYTES = Buffer.from('hello, origin');
const { length } = BYTES;
const HINTS: readonly HeaderLine[] = [['Link', '</style.css>; rel=preload']];

let origin: RawOrigin;
let app: TestApp;
let flows = 0;

beforeAll(async () => {
  origin = await startRawOrigin();
  app = await startTestApp({ origin: origin.url, config: CONFIG.replace('ORIGIN', origin.url) });
});
afterAll(async () => {
  await app.stop();
  await origin.close();
});

const exchangeFor = (target: string): Promise<RawExchange> =>
  until(() => origin.exchanges.find((exchange) => exchange.target === target), 'the delivery');

/** The origin keeps its answers until told. */
function holds(): void {
  origin.setScript(async (exchange) => {
    await exchange.readBody();
  });
}

function begin(
  transport: Transport,
  method: string,
  target: string,
  headers: readonly HeaderLine[],
): Promise<OpenRequest> {
  const host: HeaderLine[] = transport === 'HTTP/1.1' ? [['Host', new URL(app.url).host]] : [];
  return openRequest(transport, app.url, { method, target, headers: [...host, ...headers] });
}

/** Interim responses that are not ours. */
async function nextOfOrigin(request: OpenRequest): Promise<{ status: number; link: string | undefined }> {
  for (;;) {
    const { status, headerLines, ...interim } = await request.readInterim();
    if (status !== 104) return { status, link: headerLines.find(([name]) => /^link$/i.test(name))?.[1], ...interim };
  }
}

describe.each(TRANSPORTS)('over %s', (transport) => {
  const WAYS = [
    { name: 'the creation of an upload', path: '/files/', fields: creationLines(DIALECT, { complete: true, length }) },
    { name: 'that of an eager one', path: '/eager/', fields: creationLines(DIALECT, { complete: true, length }) },
    { name: 'a spooled request', path: '/spooled/', fields: [] },
  ] as const;

  test.each(WAYS)('102 and 103 of the origin reach $name; 100 and its own 104 do not', async ({ path, fields }) => {
    holds();
    const target = `${path}${flows++}`;
    const request = await begin(transport, 'POST', target, [...fields, ['Content-Length', `${length}`]]);
    await request.send(BYTES);
    await request.end();
    const exchange = await exchangeFor(target);
    await exchange.readBody();
    await exchange.write(
      'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 104 Upload Resumption Supported\r\nLocation: /x\r\n\r\n',
    );
    await exchange.write('HTTP/1.1 102 Processing\r\nUpload-Offset: 7\r\nKeep-Alive: x\r\n\r\n');
    await exchange.interim(103, [...HINTS, ['Alt-Svc', 'h3=":443"']]);
    await exchange.respond({ status: 201, body: 'made' });
    const response = await request.readFinal();
    const theirs = response.interims.filter((interim) => interim.status !== 104 || interim.header('Location') === '/x');
    expect(theirs.map(({ status }) => status)).toEqual([102, 103]);
    const names = theirs.map(({ headerLines }) => headerLines.map(([name]) => name.toLowerCase()));
    expect(names).toEqual([[], ['link']]);
    expect([response.status, response.body.toString()]).toEqual([201, 'made']);
    await request.close();
  });

  test.each(['/files/', '/eager/'])(
    'on %s they reach the append that came instead of a creation that was cut',
    async (path) => {
      holds();
      const target = `${path}${flows++}`;
      const fields = creationLines(DIALECT, { complete: true, length });
      const first = await begin(transport, 'POST', target, [...fields, ['Content-Length', `${length}`]]);
      const location = (await first.readInterim()).header('Location')!;
      await first.send(BYTES);
      await first.end();
      const exchange = await exchangeFor(target);
      await exchange.readBody();
      await exchange.interim(103, HINTS);
      expect(await nextOfOrigin(first)).toMatchObject({ status: 103, link: HINTS[0]![1] });
      first.leave('reset');
      const append = appendLines(DIALECT, { offset: length - 1, complete: true });
      const second = await begin(transport, 'PATCH', new URL(location).pathname, [...append, ['Content-Length', '1']]);
      await second.send(BYTES.subarray(-1));
      await second.end();
      let heard: number | undefined;
      void nextOfOrigin(second).then(({ status }) => (heard = status));
      // Again and again, because nobody outside sees when the append begins to wait.
      await until(async () => {
        await exchange.interim(102);
        return heard;
      }, 'an interim response');
      for (let count = 0; count < 30; count++) await exchange.interim(102);
      await exchange.respond({ status: 201, body: 'made' });
      const { status, interims } = await second.readFinal();
      expect([status, heard]).toEqual([201, 102]);
      expect(interims.filter((interim) => interim.status === 102)).toHaveLength(16);
      await Promise.all([first.close(), second.close()]);
    },
  );

  test('a client that asks for its content to be passed on as it comes gets that where the route is eager', async () => {
    origin.setScript(() => undefined);
    const target = `/eager/${flows++}`;
    const fields: HeaderLine[] = [...creationLines(DIALECT, { complete: true, length }), ['Incremental', '?1']];
    const request = await begin(transport, 'POST', target, [...fields, ['Content-Length', `${length}`]]);
    await request.send(BYTES.subarray(0, 5));
    const exchange = await exchangeFor(target);
    expect(exchange.header('Incremental')).toBe('?1');
    expect((await exchange.readBytes(4)).toString()).toBe('hell');
    await request.send(BYTES.subarray(5));
    await request.end();
    expect((await exchange.readBytes(length - 4)).toString()).toBe(BYTES.subarray(4).toString());
    await exchange.respond({ status: 201, body: 'made' });
    expect((await request.readFinal()).status).toBe(201);
    await request.close();
  });

  const REFUSED = [
    ['a route that spools', '/files/', creationLines(DIALECT, { complete: true, length })],
    ['a gate', '/gated/', creationLines(DIALECT, { complete: true, length })],
    [
      'a route that is eager in name only, because its origin takes one request at a time',
      '/single/',
      creationLines(DIALECT, { complete: true, length }),
    ],
    ['a route whose ordinary requests are spooled', '/spooled/', []],
    ['a part of more to come', '/files/', creationLines(DIALECT, { complete: false, length: 100 })],
  ] as const;

  test.each(REFUSED)('%s refuses it with 501', async (_, path, fields) => {
    const target = `${path}${flows++}`;
    const headers = [...fields, ['Incremental', '?1;x=1'] as const];
    const response = await exchangeOver(transport, app.url, { method: 'POST', target, headers, body: BYTES });
    expect([response.status, response.header('Proxy-Status')]).toEqual([501, 'rufh-proxy; error=incremental_refused']);
    expect(origin.exchanges.filter((exchange) => exchange.target === target)).toEqual([]);
  });

  test.each(['?0', '1', 'yes', ''])('Incremental: %p asks for nothing', async (value) => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await exchange.respond({ status: 201, body: 'made' });
    });
    const headers = [...creationLines(DIALECT, { complete: true, length }), ['Incremental', value] as const];
    const target = `/files/${flows++}`;
    expect((await exchangeOver(transport, app.url, { method: 'POST', target, headers, body: BYTES })).status).toBe(201);
  });

  test('what passes through is passed on as it comes', async () => {
    holds();
    const target = `/never/${flows++}`;
    const request = await begin(transport, 'POST', target, [['Incremental', '?1']]);
    await request.send('hello');
    const exchange = await exchangeFor(target);
    expect(exchange.header('Incremental')).toBe('?1');
    await exchange.respond({ status: 200, body: 'early' });
    expect((await request.readFinal()).body.toString()).toBe('early');
    await request.close();
  });
});

test('half of an origin’s turns are those of clients that still upload, and one too many is told to come again', async () => {
  origin.setScript(async (exchange) => {
    await exchange.readBody();
    await exchange.respond({ status: 201, body: 'made' });
  });
  const fields = [...creationLines(DIALECT, { complete: true, length }), ['Content-Length', `${length}`] as const];
  const slow = await begin('HTTP/1.1', 'POST', '/one/slow', fields);
  await slow.send(BYTES.subarray(0, 5));
  await exchangeFor('/one/slow');
  const headers = [...creationLines(DIALECT, { complete: true, length }), ['Incremental', '?1'] as const];
  const ask = { method: 'POST', target: '/one/incremental', headers, body: BYTES };
  const busy = await exchangeOver('HTTP/1.1', app.url, ask);
  expect([busy.status, busy.header('Retry-After')]).toEqual([429, '5']);
  // Without the wish it is delivered when it is whole.
  const whole = { ...ask, headers: headers.slice(0, -1) };
  expect((await exchangeOver('HTTP/1.1', app.url, whole)).status).toBe(201);
  await slow.send(BYTES.subarray(5));
  expect((await slow.readFinal()).status).toBe(201);
  expect((await exchangeOver('HTTP/1.1', app.url, ask)).status).toBe(201);
  await slow.close();
});

test.each(TRANSPORTS)(
  'over %s, what passes through has interim responses without a way around us',
  async (transport) => {
    origin.setScript(async (exchange) => {
      await exchange.interim(103, [...HINTS, ['Alt-Svc', 'h3=":8443"']]);
      await exchange.respond({ status: 200, headers: [['Alt-Svc', 'h3=":8443"']], body: 'ok' });
    });
    const { status, interims, ...answer } = await exchangeOver(transport, app.url, {
      method: 'GET',
      target: '/files/hints',
    });
    const fields = interims.map((interim) => [interim.status, interim.header('Link'), interim.header('Alt-Svc')]);
    expect([status, fields]).toEqual([200, [[103, HINTS[0]![1], undefined]]]);
    expect(answer.headerLines.filter(([name]) => /alt-svc/i.test(name))).toEqual([]);
  },
);
